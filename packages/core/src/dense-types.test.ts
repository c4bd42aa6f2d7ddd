import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  bitsToFloat,
  type DenseFormat,
  decodeDense,
  decodeScale,
  denseBytes,
  e4m3ToFloat,
  e5m2ToFloat,
  floatToBits,
  floatToHalf,
  halfToFloat,
  roundHalfEven,
} from "./index.ts";

/** Half precision as the language has it: Float16Array is in Node 24, after the TypeScript libraries in use here. */
const oracle = new DataView(new ArrayBuffer(4)) as DataView & {
  getFloat16(offset: number): number;
  setFloat16(offset: number, value: number): void;
};

function halfOf(value: number): number {
  oracle.setFloat16(0, value);
  return oracle.getUint16(0);
}

describe("half precision against the engine's own", () => {
  test("all 65,536 halves decode equally, signed zeros too", () => {
    for (let half = 0; half < 65536; half++) {
      oracle.setUint16(0, half);
      const expected = oracle.getFloat16(0);
      if (!Object.is(halfToFloat(half), expected))
        expect([half, halfToFloat(half)]).toEqual([half, expected]);
    }
  });

  test("each half survives a round trip", () => {
    for (let half = 0; half < 65536; half++) {
      const value = halfToFloat(half);
      if (!Number.isNaN(value) && floatToHalf(value) !== half) expect(floatToHalf(value)).toBe(half);
    }
    expect(halfToFloat(floatToHalf(Number.NaN))).toBeNaN();
  });

  test("every f32 rounds equally", () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true }), (value) => {
        expect(floatToHalf(value)).toBe(halfOf(value));
      }),
      { numRuns: 5000 },
    );
  });

  test("ties, and neighbours of ties, between each two halves", () => {
    for (let half = 0; half < 0x7bff; half++) {
      const middle = (halfToFloat(half) + halfToFloat(half + 1)) / 2;
      for (const bits of [-1, 0, 1]) {
        const value = bitsToFloat(floatToBits(middle) + bits);
        if (floatToHalf(value) !== halfOf(value))
          expect([value, floatToHalf(value)]).toEqual([value, halfOf(value)]);
      }
    }
  });

  test("overflow begins at 65520", () => {
    expect(floatToHalf(65519.99)).toBe(0x7bff);
    expect(floatToHalf(65520)).toBe(0x7c00);
    expect(floatToHalf(-1e30)).toBe(0xfc00);
  });
});

test("roundHalfEven", () => {
  expect([0.5, 1.5, 2.5, -1.5, -2.5, 2.4999, 2.5001, 7, -0.7].map(roundHalfEven)).toEqual([
    0, 2, 2, -2, -2, 2, 3, 7, -1,
  ]);
});

describe("8-bit floats", () => {
  test("E4M3 from its definition", () => {
    expect([0x00, 0x01, 0x07, 0x08, 0x38, 0x7e, 0xfe, 0xb8].map(e4m3ToFloat)).toEqual([
      0,
      2 ** -9,
      7 * 2 ** -9,
      2 ** -6,
      1,
      448,
      -448,
      -1,
    ]);
    expect([e4m3ToFloat(0x7f), e4m3ToFloat(0xff)]).toEqual([Number.NaN, Number.NaN]);
    expect(e4m3ToFloat(0x80)).toBe(-0);
  });

  test("E5M2 from its definition", () => {
    expect([0x00, 0x01, 0x3c, 0x7b, 0x7c, 0xbc].map(e5m2ToFloat)).toEqual([
      0,
      2 ** -16,
      1,
      57344,
      Number.POSITIVE_INFINITY,
      -1,
    ]);
    expect(e5m2ToFloat(0x7d)).toBeNaN();
  });
});

describe("scales", () => {
  test("every format", () => {
    expect(decodeScale("f32", 0x3fc00000)).toBe(1.5);
    expect(decodeScale("f32", 0xbfc00000)).toBe(-1.5);
    expect(decodeScale("f16", 0xbc00)).toBe(-1);
    expect(decodeScale("bf16", 0xc040)).toBe(-3);
    expect([0, 1, 127, 128, 255].map((bits) => decodeScale("e8m0-half", bits))).toEqual([
      2 ** -128,
      2 ** -127,
      0.5,
      1,
      2 ** 127,
    ]);
    expect([0, 1, 0x38, 0x7e, 0x7f, 0xb8, 0xff].map((bits) => decodeScale("ue4m3-half", bits))).toEqual([
      0,
      2 ** -10,
      0.5,
      224,
      0,
      0.5,
      0,
    ]);
  });
});

describe("plain numbers", () => {
  /** Writers of the platform, little-endian. */
  const writers: Partial<Record<DenseFormat, (view: DataView, offset: number, value: number) => void>> = {
    f64: (view, at, value) => view.setFloat64(at, value, true),
    f32: (view, at, value) => view.setFloat32(at, value, true),
    i8: (view, at, value) => view.setInt8(at, value),
    i16: (view, at, value) => view.setInt16(at, value, true),
    i32: (view, at, value) => view.setInt32(at, value, true),
    i64: (view, at, value) => view.setBigInt64(at, BigInt(value), true),
  };

  test.each(Object.keys(writers) as DenseFormat[])("%s", (format) => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -128, max: 127 })), (values) => {
        const step = denseBytes[format];
        // One byte off, so that reads may not be aligned.
        const bytes = new Uint8Array(values.length * step + 1).subarray(1);
        const view = new DataView(bytes.buffer, 1);
        values.forEach((value, i) => {
          writers[format]?.(view, i * step, value);
        });
        const out = new Float32Array(values.length);
        decodeDense(format, bytes, out);
        expect([...out]).toEqual(values.map((value) => value + 0));
      }),
    );
  });

  test("16-bit formats and bytes", () => {
    const out = new Float32Array(2);
    decodeDense("bf16", Uint8Array.of(0x80, 0x3f, 0x40, 0xc0), out);
    expect([...out]).toEqual([1, -3]);
    decodeDense("f16", Uint8Array.of(0x00, 0x3c, 0x00, 0xc2), out);
    expect([...out]).toEqual([1, -3]);
    decodeDense("f8-e4m3", Uint8Array.of(0x38, 0xc4), out);
    expect([...out]).toEqual([1, -3]);
    decodeDense("f8-e5m2", Uint8Array.of(0x3c, 0xc2), out);
    expect([...out]).toEqual([1, -3]);
  });
});
