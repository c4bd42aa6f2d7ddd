import { describe, expect, test } from "vitest";
import { denseType } from "./dense-types.ts";
import { bitsPerWeight, describeType } from "./quant-describe.ts";
import type { QuantType } from "./quant-type.ts";

const f16 = { per: 32, pieces: [{ at: 0, bits: 16, dims: [] }] } as const;

const signedBytes: QuantType = {
  name: "bytes",
  block: 32,
  bytes: 34,
  code: { per: 1, pieces: [{ at: 16, bits: 8, dims: [[32, 8]] }], signed: true },
  values: { kind: "affine", zero: 0 },
  scale: { super: { field: f16, format: "f16" } },
};

describe("describeType", () => {
  test("plain numbers", () => {
    expect(describeType(denseType("F16", "f16"))).toBe("f16 numbers; 16 bits per weight");
  });

  test("signed integers with one scale", () => {
    expect(bitsPerWeight(signedBytes)).toBe(8.5);
    expect(describeType(signedBytes)).toBe("8-bit signed integers; scale: f16 per 32; 8.5 bits per weight");
  });

  test("two-level scales, mins, codes minus a zero", () => {
    const type: QuantType = {
      name: "two-level",
      block: 32,
      bytes: 22,
      code: { per: 1, pieces: [{ at: 48, bits: 4, dims: [[32, 4]] }] },
      values: { kind: "affine", zero: 8 },
      scale: {
        super: { field: f16, format: "f16" },
        sub: { field: { per: 16, pieces: [{ at: 16, bits: 6, dims: [[2, 6]] }] } },
      },
      min: { super: { field: { per: 32, pieces: [{ at: 32, bits: 16, dims: [] }] }, format: "bf16" } },
    };
    expect(describeType(type)).toBe(
      "4-bit integers minus 8; scale: 6-bit per 16 × f16 per 32; min: bf16 per 32; 5.5 bits per weight",
    );
  });

  test("codebooks", () => {
    const levels: QuantType = {
      name: "levels",
      block: 8,
      bytes: 2,
      code: { per: 1, pieces: [{ at: 0, bits: 2, dims: [[8, 2]] }] },
      values: { kind: "book", dimension: 1, table: [-3, -1, 1, 3] },
    };
    expect(describeType(levels)).toBe("2-bit codes for 4 levels; scale: 1; 2 bits per weight");
    const vectors: QuantType = {
      name: "vectors",
      block: 8,
      bytes: 2,
      code: { per: 4, pieces: [{ at: 0, bits: 1, dims: [[2, 1]] }] },
      values: { kind: "book", dimension: 4, table: [1, 2, 3, 4, 5, 6, 7, 8] },
      sign: { field: { per: 8, pieces: [{ at: 8, bits: 8, dims: [] }] } },
      delta: { field: { per: 8, pieces: [{ at: 2, bits: 1, dims: [] }] }, values: [0.5, -0.5] },
    };
    expect(describeType(vectors)).toBe(
      "1-bit codes for 2 entries of 4 weights, signs apart, shifted by 0.5 or -0.5; scale: 1; 2 bits per weight",
    );
  });
});
