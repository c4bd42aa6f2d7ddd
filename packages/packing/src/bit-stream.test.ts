import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readCodes, wordsFrom, wordsOf, writeCodes } from "./index.ts";

/** Bit `i` of the stream, by the definition. */
function streamOf(codes: Uint8Array, bits: number): bigint {
  return codes.reduce((stream, code, i) => stream | (BigInt(code) << BigInt(i * bits)), 0n);
}

const cases = fc
  .record({
    bits: fc.integer({ min: 1, max: 8 }),
    at: fc.nat(5),
    stride: fc.integer({ min: 1, max: 7 }),
    raw: fc.uint8Array({ maxLength: 120 }),
  })
  .map(({ bits, raw, ...rest }) => ({ bits, codes: raw.map((code) => code & (2 ** bits - 1)), ...rest }));

describe("bit streams", () => {
  it("lie as the definition says, along rows and columns", () => {
    fc.assert(
      fc.property(cases, ({ bits, codes, at, stride }) => {
        const count = wordsOf(codes.length, bits);
        const words = new Uint32Array(at + count * stride + 3).fill(0xdeadbeef);
        writeCodes(words, { bits, at, stride }, codes);
        let stream = 0n;
        for (let w = 0; w < count; w++) stream |= BigInt(words[at + w * stride] ?? 0) << BigInt(32 * w);
        expect(stream).toBe(streamOf(codes, bits));
        expect(words.filter((word) => word === 0xdeadbeef).length).toBeGreaterThanOrEqual(
          words.length - count,
        );
        expect(readCodes(words, { bits, at, stride }, new Uint8Array(codes.length))).toEqual(codes);
      }),
      { seed: 3 },
    );
  });

  it("does not leave the words", () => {
    const words = new Uint32Array(4);
    const outside = [
      { bits: 4, at: 1 },
      { bits: 4, stride: 2 },
      { bits: 0 },
      { bits: 9 },
      { bits: 4, at: -1 },
    ];
    for (const stream of outside) {
      expect(() => readCodes(words, stream, new Uint8Array(32))).toThrow(/leaves its 4 words|of [09] bits/);
      expect(() => writeCodes(words, stream, new Uint8Array(32))).toThrow(/leaves its 4 words|of [09] bits/);
    }
  });

  it("reads words that are not aligned", () => {
    const bytes = Uint8Array.of(9, 1, 0, 0, 0, 2, 0, 0, 0).subarray(1);
    expect([...wordsFrom(bytes)]).toEqual([1, 2]);
  });
});
