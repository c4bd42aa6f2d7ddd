import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { allCandidates, atLeast, largest, nucleus, probabilities, typical } from "./candidates.ts";
import { createRandom } from "./random.ts";
import { createSampler, type SamplingSettings } from "./sampler.ts";

const off: SamplingSettings = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  typicalP: 1,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  penaltyWindow: 64,
  logitBias: {},
  seed: 1,
};

const logitsArray = (least = 1) =>
  fc
    .array(fc.float({ min: -8, max: 8, noNaN: true }), { minLength: least, maxLength: 700 })
    .map((x) => Float32Array.from(x));

/** All ids, best first, ties to the lower id: the plain way. */
const ranked = (logits: Float32Array): number[] =>
  Array.from(logits, (_, id) => id).sort((a, b) => (logits[b] ?? 0) - (logits[a] ?? 0) || a - b);

const softmax = (logits: Float32Array): number[] => {
  const weights = Array.from(logits, (logit) => Math.exp(logit));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
};

describe("candidates", () => {
  it("largest equals a full sort", () => {
    fc.assert(
      fc.property(logitsArray(), fc.integer({ min: 1, max: 800 }), (logits, k) => {
        const rounded = logits.map((logit) => Math.round(logit)); // many ties
        for (const values of [logits, rounded]) {
          expect([...largest(allCandidates(values), k).ids]).toEqual(ranked(values).slice(0, k));
        }
      }),
    );
  });

  it("nucleus is the shortest head with the wanted probability", () => {
    fc.assert(
      fc.property(logitsArray(), fc.double({ min: 0, max: 0.999, noNaN: true }), (logits, share) => {
        const p = softmax(logits);
        const kept = [...nucleus(allCandidates(logits), share).ids];
        expect(kept).toEqual(ranked(logits).slice(0, kept.length));
        const sum = kept.reduce((total, id) => total + (p[id] ?? 0), 0);
        expect(sum).toBeGreaterThanOrEqual(share - 1e-9);
        expect(sum - (p[kept.at(-1) ?? 0] ?? 0)).toBeLessThan(share + 1e-9);
      }),
    );
  });

  it("atLeast keeps those near enough to the best", () => {
    const logits = Float32Array.from([Math.log(0.5), Math.log(0.26), Math.log(0.2), Math.log(0.04)]);
    expect([...atLeast(allCandidates(logits), 0.5).ids]).toEqual([0, 1]);
    expect([...atLeast(allCandidates(logits), 0.1).ids]).toEqual([0, 1, 2]);
  });

  it("typical prefers tokens as surprising as the whole", () => {
    // Entropy 1.19 nats; surprises 0.51, 1.61, 2.30, 2.30: the second is nearest, then the first.
    const logits = Float32Array.from([0.6, 0.2, 0.1, 0.1].map(Math.log));
    expect([...typical(allCandidates(logits), 0.1).ids]).toEqual([1]);
    expect([...typical(allCandidates(logits), 0.5).ids]).toEqual([0, 1]);
    expect([...typical(allCandidates(logits), 0.85).ids]).toEqual([0, 1, 2]);
  });

  it("probabilities add up to one, for extreme logits too", () => {
    const p = probabilities(allCandidates(Float32Array.from([1e30, 0, -1e30])));
    expect([...p]).toEqual([1, 0, 0]);
  });
});

describe("sampler", () => {
  const pick = (settings: Partial<SamplingSettings>, logits: number[], prompt: number[] = []) =>
    createSampler({ ...off, ...settings }, prompt).pick(Float32Array.from(logits)).id;

  it("draws in proportion to the probabilities", () => {
    const sampler = createSampler({ ...off, seed: 3 }, []);
    const wanted = [0.5, 0.25, 0.125, 0.125];
    const counts = [0, 0, 0, 0];
    const draws = 20_000;
    for (let i = 0; i < draws; i++) {
      const { id } = sampler.pick(Float32Array.from(wanted.map(Math.log)));
      counts[id] = (counts[id] ?? 0) + 1;
    }
    // χ² with 3 degrees of freedom stays below 16.3 in 99.9 % of runs; this one is fixed by its seed.
    const chi = counts.reduce(
      (sum, count, i) => sum + (count - draws * (wanted[i] ?? 0)) ** 2 / (draws * (wanted[i] ?? 1)),
      0,
    );
    expect(chi).toBeLessThan(16.3);
  });

  it("takes the best at temperature 0, ties to the lower id", () => {
    expect(pick({ temperature: 0 }, [1, 3, 3, 2])).toBe(1);
  });

  it("takes the best whatever the seed when one token is left", () => {
    fc.assert(
      fc.property(logitsArray(2), fc.nat(), (logits, seed) => {
        const best = ranked(logits)[0];
        for (const settings of [
          { topK: 1 },
          { topP: 0 },
          { minP: 1, topK: 1 },
          { temperature: 1e-9, topK: 1 },
        ]) {
          expect(createSampler({ ...off, ...settings, seed }, []).pick(logits.slice()).id).toBe(best);
        }
      }),
    );
  });

  it("never draws what a filter removed", () => {
    fc.assert(
      fc.property(logitsArray(20), fc.nat(), (logits, seed) => {
        const allowed = new Set(ranked(logits).slice(0, 5));
        expect(allowed.has(createSampler({ ...off, topK: 5, seed }, []).pick(logits.slice()).id)).toBe(true);
      }),
    );
  });

  it("gives a token for every allowed setting", () => {
    const settings = fc.record({
      temperature: fc.oneof(
        fc.constant(5e-324),
        fc.constant(100),
        fc.double({ min: 0, max: 2, noNaN: true }),
      ),
      topK: fc.nat(50),
      topP: fc.double({ min: 0, max: 1, noNaN: true }),
      minP: fc.double({ min: 0, max: 1, noNaN: true }),
      typicalP: fc.double({ min: 0, max: 1, noNaN: true }),
      repetitionPenalty: fc.double({ min: 0.01, max: 100, noNaN: true }),
      presencePenalty: fc.double({ min: -100, max: 100, noNaN: true }),
      frequencyPenalty: fc.double({ min: -100, max: 100, noNaN: true }),
      penaltyWindow: fc.integer({ min: -1, max: 9 }),
      logitBias: fc.constantFrom<Record<number, number>>(
        {},
        { 0: 1e6 },
        { 0: -1e6, 1: Number.NEGATIVE_INFINITY },
      ),
      seed: fc.nat(),
    });
    fc.assert(
      fc.property(logitsArray(3), settings, (logits, chosen) => {
        const sampler = createSampler(chosen, [0, 1, 1]);
        for (let i = 0; i < 3; i++) {
          const { id } = sampler.pick(logits.slice());
          expect(Number.isInteger(id) && id >= 0 && id < logits.length).toBe(true);
          if (Object.values(chosen.logitBias).includes(Number.NEGATIVE_INFINITY)) expect(id).not.toBe(1);
        }
      }),
      { numRuns: 500 },
    );
  });

  it("adds the bias before all else", () => {
    expect(pick({ temperature: 0, logitBias: { 2: 5 } }, [3, 2, 1])).toBe(2);
    expect(pick({ logitBias: { 0: Number.NEGATIVE_INFINITY }, topK: 1 }, [9, 2, 1])).toBe(1);
    const all = { 0: Number.NEGATIVE_INFINITY, 1: Number.NEGATIVE_INFINITY };
    for (const temperature of [0, 1]) {
      expect(() => pick({ logitBias: all, temperature }, [1, 2])).toThrow(/forbids every token/);
    }
  });

  it("divides positive and multiplies negative logits of repeated tokens, of the prompt too", () => {
    const greedy = { temperature: 0, repetitionPenalty: 2 };
    expect(pick(greedy, [4, 2.5, -1], [0])).toBe(1);
    expect(pick(greedy, [-1, -1.5, -9], [0])).toBe(1);
  });

  it("subtracts presence once and frequency by count", () => {
    const prompt = [0, 0, 0, 1];
    expect(pick({ temperature: 0, presencePenalty: 1 }, [3, 2.5, 2.2], prompt)).toBe(2);
    expect(pick({ temperature: 0, frequencyPenalty: 0.5 }, [3, 2.5, 1.9], prompt)).toBe(1);
  });

  it("looks back only over its window", () => {
    const greedy = { temperature: 0, presencePenalty: 10 };
    const prompt = [0, 1, 1, 1];
    expect(pick({ ...greedy, penaltyWindow: 3 }, [2, 3, 1], prompt)).toBe(0);
    expect(pick({ ...greedy, penaltyWindow: -1 }, [2, 3, 1], prompt)).toBe(2);
    expect(pick({ ...greedy, penaltyWindow: 0 }, [2, 3, 1], prompt)).toBe(1);
    const sampler = createSampler({ ...off, ...greedy, penaltyWindow: 2 }, []);
    const ids = Array.from({ length: 6 }, () => sampler.pick(Float32Array.from([3, 2, 1])).id);
    expect(ids).toEqual([0, 1, 2, 0, 1, 2]);
  });

  it("keeps a long window's counts right", () => {
    const sampler = createSampler({ ...off, temperature: 0, frequencyPenalty: 1, penaltyWindow: 5000 }, []);
    const counts = [0, 0];
    for (let i = 0; i < 12_000; i++) {
      const { id } = sampler.pick(Float32Array.from([0.5, 0]));
      counts[id] = (counts[id] ?? 0) + 1;
    }
    expect(Math.abs((counts[0] ?? 0) - (counts[1] ?? 0))).toBeLessThanOrEqual(2);
  });
});

describe("random", () => {
  it("depends on all bits of the seed and is uniform", () => {
    const first = (seed: number) => createRandom(seed).next();
    expect(first(1)).toBe(first(1));
    expect(new Set([0, 1, 2 ** 32, 2 ** 32 + 1, 2 ** 53 - 1].map(first)).size).toBe(5);
    const random = createRandom(42);
    const values = Array.from({ length: 10_000 }, () => random.next());
    expect(Math.min(...values)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...values)).toBeLessThan(1);
    expect(values.reduce((a, b) => a + b, 0) / values.length).toBeCloseTo(0.5, 1);
  });

  it("keeps its sequence from version to version", () => {
    const random = createRandom(12345);
    expect([random.next(), random.next(), random.next()]).toMatchInlineSnapshot(`
      [
        0.25454781239677515,
        0.871101765972553,
        0.9729384123433413,
      ]
    `);
  });
});
