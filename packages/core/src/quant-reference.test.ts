import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type BitField,
  dequantize,
  LowbitError,
  levelValue,
  planOf,
  type QuantType,
  readBits,
  readLevels,
} from "./index.ts";

/**
 * Any description of 32 weights made of integers: codes in one or two pieces laid out along a stream, an f32 super-scale,
 * sub-scales and mins.
 */
const integerType: fc.Arbitrary<QuantType> = fc
  .record({
    low: fc.integer({ min: 1, max: 5 }),
    high: fc.integer({ min: 0, max: 3 }),
    signed: fc.boolean(),
    zero: fc.integer({ min: -8, max: 8 }),
    subPer: fc.constantFrom(4, 8, 16, 32),
    subBits: fc.integer({ min: 1, max: 8 }),
    subSigned: fc.boolean(),
    offset: fc.integer({ min: -4, max: 4 }),
    min: fc.boolean(),
    multiplier: fc.constantFrom(-1, 0.5, 1, 4),
  })
  .map(({ low, high, signed, zero, subPer, subBits, subSigned, offset, min, multiplier }) => {
    const stream = (per: number, at: number, bits: number): BitField["pieces"][number] => ({
      at,
      bits,
      dims: [[32 / per, bits]],
    });
    const scales = 32 + (32 / subPer) * subBits;
    const codes = scales + 16;
    const pieces = [stream(1, codes, low), ...(high > 0 ? [stream(1, codes + 32 * low, high)] : [])];
    const half: BitField = { per: 32, pieces: [{ at: scales, bits: 16, dims: [] }] };
    return {
      name: "random",
      block: 32,
      bytes: Math.ceil((codes + 32 * (low + high)) / 8),
      code: { per: 1, pieces, signed },
      values: { kind: "affine", zero },
      scale: {
        super: { field: { per: 32, pieces: [{ at: 0, bits: 32, dims: [] }] }, format: "f32" },
        sub: { field: { per: subPer, pieces: [stream(subPer, 32, subBits)], signed: subSigned }, offset },
        multiplier,
      },
      ...(min && { min: { super: { field: half, format: "f16" } } }),
    } satisfies QuantType;
  });

/** The value of a field from its definition, with big integers. */
function definition(field: BitField, block: Uint8Array, i: number): number {
  let value = 0;
  let shift = 0;
  for (const piece of field.pieces) {
    let at = piece.at;
    let rest = i;
    for (const [count, stride] of piece.dims) {
      at += (rest % count) * stride;
      rest = Math.floor(rest / count);
    }
    value += readBits(block, at, piece.bits) * 2 ** shift;
    shift += piece.bits;
  }
  return field.signed && value >= 2 ** (shift - 1) ? value - 2 ** shift : value;
}

describe("dequantize", () => {
  test("obeys the description, each product rounded to f32", () => {
    fc.assert(
      fc.property(integerType, fc.infiniteStream(fc.nat({ max: 255 })), (type, stream) => {
        const bytes = Uint8Array.from({ length: type.bytes * 2 }, () => stream.next().value ?? 0);
        const view = new DataView(bytes.buffer);
        const scales = [0.37, -11.25].map(Math.fround);
        scales.forEach((scale, b) => {
          view.setFloat32(b * type.bytes, scale, true);
        });
        const out = dequantize(type, bytes, new Float32Array(64));
        const code = type.code as BitField;
        const sub = type.scale?.sub;
        const zero = type.values.kind === "affine" ? type.values.zero : 0;
        for (let e = 0; e < 64; e++) {
          const block = bytes.subarray(Math.floor(e / 32) * type.bytes).subarray(0, type.bytes);
          const i = e % 32;
          const factor = sub
            ? definition(sub.field, block, Math.floor(i / sub.field.per)) + (sub.offset ?? 0)
            : 1;
          const scale =
            Math.fround((scales[Math.floor(e / 32)] ?? 0) * factor) * (type.scale?.multiplier ?? 1);
          let expected = Math.fround(scale * (definition(code, block, i) - zero));
          const field = type.min?.super?.field;
          if (field) expected = Math.fround(expected - half(definition(field, block, 0)));
          expect(out[e]).toBe(expected);
        }
      }),
      { numRuns: 200 },
    );
  });

  test("levels and their values are what it multiplies", () => {
    fc.assert(
      fc.property(integerType, fc.infiniteStream(fc.nat({ max: 255 })), (type, stream) => {
        const block = Uint8Array.from({ length: type.bytes }, () => stream.next().value ?? 0);
        const plan = planOf(type);
        const levels = new Uint8Array(32);
        readLevels(plan, block, levels);
        const zero = type.values.kind === "affine" ? type.values.zero : 0;
        levels.forEach((level, i) => {
          expect(levelValue(plan, level)).toBe(definition(type.code as BitField, block, i) - zero);
          expect(level).toBeLessThan(2 ** plan.levelBits);
        });
      }),
      { numRuns: 100 },
    );
  });

  const pairs: QuantType = {
    name: "pairs",
    block: 8,
    bytes: 4,
    code: { per: 2, pieces: [{ at: 0, bits: 2, dims: [[4, 2]] }] },
    values: { kind: "book", dimension: 2, table: [1, 2, 3, 4, 5, 6, 7, 0] },
    sign: { field: { per: 8, pieces: [{ at: 8, bits: 7, dims: [] }] }, parity: true },
    delta: { field: { per: 4, pieces: [{ at: 16, bits: 1, dims: [[2, 1]] }] }, values: [0, 0.5] },
    scale: { super: { field: { per: 8, pieces: [{ at: 24, bits: 8, dims: [] }] }, format: "e8m0-half" } },
  };

  test("codebook: entries, parity of signs, deltas", () => {
    // Codes 0 1 2 3; signs 0 and 2 and, to make their number even, none more; delta on the second half; scale 2.
    const out = dequantize(pairs, Uint8Array.of(0b11100100, 0b0000101, 0b10, 129), new Float32Array(8));
    expect([...out]).toEqual([-2, 4, -6, 8, 11, 13, 15, 1]);
    const odd = dequantize(pairs, Uint8Array.of(0b11100100, 0b0000001, 0, 129), new Float32Array(8));
    expect([...odd].map((value) => value + 0)).toEqual([-2, 4, 6, 8, 10, 12, 14, 0]);
  });

  test("codes from a function", () => {
    const type: QuantType = {
      name: "function",
      block: 4,
      bytes: 1,
      code: {
        per: 1,
        bits: 2,
        unpack: (block, codes) => codes.set([0, 1, 2, 3].map((i) => ((block[0] ?? 0) >> (2 * i)) & 3)),
      },
      values: { kind: "affine", zero: 1 },
    };
    expect([...dequantize(type, Uint8Array.of(0b11100100, 0), new Float32Array(8))]).toEqual([
      -1, 0, 1, 2, -1, -1, -1, -1,
    ]);
  });

  test("half a block, or no room for the result, is an error", () => {
    for (const [bytes, weights] of [
      [6, 8],
      [8, 15],
    ] as const) {
      let error: unknown;
      try {
        dequantize(pairs, new Uint8Array(bytes), new Float32Array(weights));
      } catch (thrown) {
        error = thrown;
      }
      expect(LowbitError.is(error) && error.code).toBe("bad-argument");
    }
  });
});

function half(bits: number): number {
  const view = new DataView(new ArrayBuffer(2)) as DataView & { getFloat16(offset: number): number };
  view.setUint16(0, bits);
  return view.getFloat16(0);
}
