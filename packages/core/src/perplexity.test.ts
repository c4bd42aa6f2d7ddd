import { expect, test } from "vitest";
import { negativeLogLikelihood, perplexity } from "./perplexity.ts";

test("uniform logits over V tokens have a perplexity of V", async () => {
  const rows: [number, number][] = [];
  const result = await perplexity(
    async (_, from, to) => {
      rows.push([from, to]);
      return new Float32Array((to - from) * 10);
    },
    Array.from({ length: 35 }, (_, i) => i % 10),
    { context: 16 },
  );
  expect(result.perplexity).toBeCloseTo(10, 10);
  expect(result.standardError).toBeCloseTo(0, 6);
  // Two chunks of 16; of each the tokens 9 to 15, which rows 8 to 14 predict. Three tokens are left over.
  expect(result).toMatchObject({ chunks: 2, scoredTokens: 14 });
  expect(rows).toEqual([
    [8, 15],
    [8, 15],
  ]);
});

test("scores the token that follows each row, and begins chunks with the begin token", async () => {
  const tokens = Array.from({ length: 24 }, (_, i) => i);
  const seen: number[] = [];
  const result = await perplexity(
    async (ids, from, to) => {
      seen.push(ids[0] ?? -1, ids[1] ?? -1);
      const logits = new Float32Array((to - from) * 32).fill(-1e4);
      for (let r = from; r < to; r++) logits[(r - from) * 32 + (ids[r] ?? 0) + 1] = 5;
      return logits;
    },
    tokens,
    { context: 8, bos: 31, maxChunks: 2 },
  );
  // Each row is certain of its successor.
  expect(result.perplexity).toBe(1);
  expect(seen).toEqual([31, 1, 31, 9]);
});

test("a row's likelihood, and its spread", async () => {
  const row = Float32Array.of(1, 2, 3);
  const expected = -Math.log(Math.exp(2) / (Math.exp(1) + Math.exp(2) + Math.exp(3)));
  expect(negativeLogLikelihood(row, 1)).toBeCloseTo(expected, 12);
  // Large logits do not overflow.
  expect(negativeLogLikelihood(Float32Array.of(1000, 0), 1)).toBeCloseTo(1000, 9);
  // Half of the tokens at ln 2, half at ln 4: mean 1.5 ln 2, deviation 0.5 ln 2.
  const result = await perplexity(
    async (_, from, to) =>
      Float32Array.from({ length: (to - from) * 4 }, (_, i) =>
        Math.floor(i / 4) % 2 === 0 || i % 4 < 2 ? 0 : Number.NEGATIVE_INFINITY,
      ),
    new Int32Array(10),
    { context: 10 },
  );
  expect(result.scoredTokens).toBe(4);
  expect(result.meanNegativeLogLikelihood).toBeCloseTo(1.5 * Math.LN2, 12);
  expect(result.standardError).toBeCloseTo((result.perplexity * 0.5 * Math.LN2) / Math.sqrt(3), 12);
});

test("refuses what cannot be measured", async () => {
  const logits = async (): Promise<Float32Array> => new Float32Array(16).fill(Number.NaN);
  await expect(perplexity(logits, [1, 2, 3], { context: 4 })).rejects.toThrow("3 tokens");
  await expect(perplexity(logits, [1, 2, 3, 4], { context: 2.5 })).rejects.toThrow("context");
  await expect(perplexity(logits, new Int32Array(8), { context: 4 })).rejects.toThrow("likelihood");
  await expect(perplexity(logits, new Int32Array(8), { context: 4, maxChunks: 0 })).rejects.toThrow(
    "maxChunks",
  );
  const signal = AbortSignal.abort();
  await expect(perplexity(logits, new Int32Array(8), { context: 4, signal })).rejects.toMatchObject({
    code: "aborted",
  });
  expect(() => negativeLogLikelihood(new Float32Array(4), 4)).toThrow("outside");
});
