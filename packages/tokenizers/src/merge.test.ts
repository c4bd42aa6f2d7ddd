import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { mergePairs, type PairRanks, PairTable } from "./merge.ts";

/** The definition: take the pair of lowest rank, the leftmost of equals, until there is none. */
function mergeByDefinition(symbols: readonly number[], pairs: PairRanks): number[] {
  const merged = [...symbols];
  for (;;) {
    let best = -1;
    let bestRank = Number.POSITIVE_INFINITY;
    for (let i = 0; i + 1 < merged.length; i++) {
      const index = pairs.find(merged[i]!, merged[i + 1]!);
      if (index >= 0 && pairs.rankAt(index) < bestRank) {
        best = i;
        bestRank = pairs.rankAt(index);
      }
    }
    if (best < 0) return merged;
    merged.splice(best, 2, pairs.mergedAt(pairs.find(merged[best]!, merged[best + 1]!)));
  }
}

const symbol = fc.nat({ max: 7 });
/** Ranks that repeat, as scores do, and pairs whose merge makes a symbol that merges on. */
const entries = fc.array(fc.tuple(symbol, symbol, fc.nat({ max: 12 }), symbol), { maxLength: 40 });

describe("mergePairs", () => {
  for (const [name, maxLength, minLength] of [
    ["short words", 20, 0],
    ["long words", 200, 30],
  ] as const) {
    it(`merges ${name} as defined`, () => {
      fc.assert(
        fc.property(entries, fc.array(symbol, { minLength, maxLength }), (table, symbols) => {
          const pairs = new PairTable(table.length);
          for (const entry of table) pairs.add(...entry);
          const merged = Int32Array.from(symbols);
          const count = mergePairs(merged, symbols.length, pairs);
          expect([...merged.subarray(0, count)]).toEqual(mergeByDefinition(symbols, pairs));
        }),
        { numRuns: 1000 },
      );
    });
  }

  it("takes a million like symbols, whose pairs all have the same rank", () => {
    const pairs = new PairTable(3);
    pairs.add(0, 0, 0, 1);
    pairs.add(1, 1, 1, 2);
    const symbols = new Int32Array(1_000_001);
    const count = mergePairs(symbols, symbols.length, pairs);
    expect(count).toBe(250_001);
    expect([...symbols.subarray(249_998, count)]).toEqual([2, 2, 0]);
  });
});

/** Symbols are ids and characters: well below this. */
const number = fc.nat({ max: 2 ** 30 });

describe("PairTable", () => {
  it("finds what was put in, and keeps the first of a pair", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(number, number, number, number)), (table) => {
        const pairs = new PairTable(table.length);
        const known = new Map<string, readonly number[]>();
        for (const [left, right, rank, merged] of table) {
          pairs.add(left, right, rank, merged);
          if (!known.has(`${left} ${right}`)) known.set(`${left} ${right}`, [rank, merged]);
        }
        expect(pairs.size).toBe(known.size);
        for (const [left, right] of table) {
          const index = pairs.find(left, right);
          expect([pairs.rankAt(index), pairs.mergedAt(index)]).toEqual(known.get(`${left} ${right}`));
          expect(pairs.find(left, right + 1) >= 0).toBe(known.has(`${left} ${right + 1}`));
        }
      }),
    );
  });

  it("gives up on pairs chosen to collide", () => {
    const pairs = new PairTable(6000);
    // The inverse of 0x85ebca6b modulo 2³² undoes the multiplication of the right symbol.
    let inverse = 1;
    for (let i = 0; i < 5; i++) inverse = Math.imul(inverse, 2 - Math.imul(0x85ebca6b, inverse));
    const add = (): void => {
      for (let left = 0; left < 6000; left++) {
        const right = (Math.imul(Math.imul(left, 0x9e3779b1), inverse) - 0x7f4a7c15) | 0;
        pairs.add(left, right, 0, 0);
      }
    };
    expect(add).toThrow(expect.objectContaining({ code: "file-corrupt", reason: "limit-exceeded" }) as Error);
  });
});
