import { expect, it } from "vitest";
import { median, promptOf, tokensPerSecond } from "./contestant.ts";
import { sizePasses } from "./sizing.ts";

const wanted = { promptTokens: 512, decodeTokens: 32, rounds: 5 };

it("a fast engine has all rounds", () => {
  expect(sizePasses(wanted, { prefill: 300, decode: 60 }, 60_000, true)).toEqual(wanted);
});

it("a slower one has as many as fit", () => {
  // 20.48 s + 1.6 s
  expect(sizePasses(wanted, { prefill: 25, decode: 20 }, 60_000, true)).toEqual({ ...wanted, rounds: 2 });
});

it("a very slow one has shorter passes, where they say the same, or none", () => {
  const rates = { prefill: 5, decode: 4 };
  expect(sizePasses(wanted, rates, 60_000, true)).toEqual({ promptTokens: 128, decodeTokens: 8, rounds: 2 });
  expect(sizePasses(wanted, rates, 60_000, false)).toEqual({
    reason: "one pass would take 110 s, of the 60 s that there are",
  });
  expect(sizePasses(wanted, rates, 20_000, true)).toHaveProperty("reason");
});

it("no two rounds have a beginning in common", () => {
  const firsts = new Set(Array.from({ length: 60 }, (_, seed) => promptOf(1, seed, 49_152)[0]));
  expect(firsts.size).toBe(60);
  const prompt = promptOf(2048, 9996, 49_152);
  expect(prompt).toHaveLength(2048);
  expect(Math.min(...prompt)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...prompt)).toBeLessThan(49_152);
});

it("medians and rates", () => {
  expect([median([3, 1, 2]), median([4, 1, 2, 3]), median([])]).toEqual([2, 2.5, Number.NaN]);
  expect(tokensPerSecond(64, 500)).toBe(128);
});
