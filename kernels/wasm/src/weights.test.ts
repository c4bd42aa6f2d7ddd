import { readFileSync } from "node:fs";
import { dequantize, type QuantType } from "@lowbit/core";
import { ggmlTypes } from "@lowbit/gguf";
import { describeWithData, testData } from "@lowbit/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LinearKit, linearWeight, randomBlocks, seeded } from "../test/linear-kit.ts";
import { otherTypes } from "../test/other-types.ts";

const variants = ["simd128", "relaxed", "narrow"] as const;
const kits = {
  simd128: new LinearKit("simd128"),
  relaxed: new LinearKit("relaxed"),
  narrow: new LinearKit("narrow"),
};
const types = [...ggmlTypes.values()];
const bits = (values: Float32Array): Int32Array =>
  new Int32Array(values.buffer, values.byteOffset, values.length);

/** Uploads, decodes every row from the planes, compares bits, frees. */
function expectExact(type: QuantType, blocks: Uint8Array, columns: number): void {
  const count = (blocks.length / type.bytes) * type.block;
  const rows = count / columns;
  const wanted = dequantize(type, blocks, new Float32Array(count));
  for (const variant of variants) {
    const { weights } = kits[variant];
    const weight = weights.upload(linearWeight(type, rows, columns, blocks));
    // Rows that are filled up have an order of inputs, which weights share.
    const needed = weights.weightBytes(type, rows, columns);
    expect(weight.bytes + (weight.order === undefined ? 0 : 4 * weight.columns)).toBe(needed);
    const ids = Array.from({ length: rows }, (_, row) => row);
    const decoded = kits[variant].decode(weight, ids);
    const differing = bits(decoded).findIndex((word, i) => word !== bits(wanted)[i]);
    const detail = {
      type: type.name,
      variant,
      differing,
      got: decoded[differing],
      wanted: wanted[differing],
    };
    expect(detail).toEqual({ type: type.name, variant, differing: -1, got: undefined, wanted: undefined });
    weights.free(weight);
  }
}

describeWithData("golden ggml blocks", ["golden/ggml"], () => {
  for (const type of types) {
    for (const kind of ["q", "qi", "fuzz"]) {
      const path = testData(`golden/ggml/${type.name}.${kind}.bin`);
      if (path === undefined) continue;
      it(`${type.name} ${kind}: planes decode exactly`, () => {
        const blocks = new Uint8Array(readFileSync(path));
        expectExact(type, blocks, Math.max(256, type.block));
      });
    }
  }
});

describe("random blocks", () => {
  // Where zero points are no integers the planes hold their products with the scales, which rounds once more.
  const exact = otherTypes.filter((type) => type.zero?.format === undefined);
  const packed = [...types.filter((type) => type.values.kind !== "dense"), ...exact];
  it.each(packed.map((type) => [type.name, type] as const))(
    "%s: planes decode exactly, odd numbers of rows",
    (_, type) => {
      const random = seeded(type.name.length * 7919 + type.bytes);
      for (const [rows, blocks] of [
        [1, 1],
        [3, 2],
        [5, 3],
        [7, 4],
        // Several chunks of columns, the last one shorter.
        [18, type.block > 32 ? 9 : 71],
      ] as const) {
        const columns = Math.max(32, type.block) * blocks;
        expectExact(type, randomBlocks(type, (rows * columns) / type.block, random), columns);
      }
    },
  );

  it("plain numbers of any row length", () => {
    for (const type of types.filter(({ values }) => values.kind === "dense")) {
      for (const columns of [1, 7, 32, 172]) {
        const values = Float32Array.from({ length: 5 * columns }, (_, i) => ((i * 37) % 201) - 100);
        const blocks = encodeDense(type, values);
        expectExact(type, blocks, columns);
      }
    }
  });

  it("rows that are no multiples of 32 are filled up", () => {
    const type: QuantType = {
      name: "I4x16",
      block: 16,
      bytes: 10,
      code: { per: 1, pieces: [{ at: 16, bits: 4, dims: [[16, 4]] }] },
      values: { kind: "affine", zero: 8 },
      scale: { super: { field: { per: 16, pieces: [{ at: 0, bits: 16, dims: [] }] }, format: "f16" } },
    };
    const blocks = randomBlocks(type, 9, seeded(5));
    expectExact(type, blocks, 48);
    expect(kits.simd128.weights.upload(linearWeight(type, 3, 48, blocks)).layout).toBe("ints4 g16");
    expectExact(type, randomBlocks(type, 12, seeded(6)), 64);
    expect(kits.simd128.weights.layout(type)).toEqual({ name: "ints4 g16", bitsPerWeight: 5 });
  });
});

function encodeDense(type: QuantType, values: Float32Array): Uint8Array {
  const bytes = new Uint8Array(values.length * type.bytes);
  const view = new DataView(bytes.buffer);
  const format = type.values.kind === "dense" ? type.values.format : "f32";
  values.forEach((value, i) => {
    const at = i * type.bytes;
    if (format === "f64") view.setFloat64(at, value, true);
    else if (format === "f32") view.setFloat32(at, value, true);
    else if (format === "i8") view.setInt8(at, value);
    else if (format === "i16") view.setInt16(at, value, true);
    else if (format === "i32") view.setInt32(at, value, true);
    else if (format === "i64") view.setBigInt64(at, BigInt(value), true);
    else view.setUint16(at, (i * 523) % 0x7c00, true);
  });
  return bytes;
}

/** A description made of numbers alone: codes of 1 to 8 bits, one or two levels of scales, perhaps a minimum. */
const describedType = fc
  .record({
    codeBits: fc.integer({ min: 1, max: 8 }),
    signed: fc.boolean(),
    zero: fc.integer({ min: -40, max: 300 }),
    block: fc.constantFrom(32, 64, 96, 128),
    format: fc.constantFrom("f32", "f16", "bf16", "e8m0-half", "ue4m3-half" as const),
    subBits: fc.constantFrom(0, 3, 6, 8),
    subSigned: fc.boolean(),
    subPer: fc.constantFrom(16, 32),
    offset: fc.constantFrom(0, 0.5, -32),
    min: fc.constantFrom("none", "min", "zero"),
    round: fc.constantFrom(undefined, "f16", "bf16" as const),
    split: fc.boolean(),
    book: fc.constantFrom("none", "near", "far", "wide", "numbers"),
  })
  .map((d): QuantType => {
    let bit = 0;
    const take = (per: number, width: number, signed: boolean) => {
      const count = d.block / per;
      // In two pieces, the high bits apart from the low ones, as many file formats do it.
      const low = d.split && width > 1 ? width - 1 : width;
      const pieces = [{ at: bit, bits: low, dims: [[count, low]] as const }];
      bit += count * low;
      if (low < width) {
        pieces.push({ at: bit, bits: width - low, dims: [[count, width - low]] as const });
        bit += count * (width - low);
      }
      return { per, pieces, signed };
    };
    const superWidth = d.format === "f32" ? 32 : d.format === "f16" || d.format === "bf16" ? 16 : 8;
    const scale = () => ({
      super: { field: take(d.block, superWidth, false), format: d.format as "f16" },
      ...(d.subBits > 0 &&
        d.min !== "zero" && { sub: { field: take(d.subPer, d.subBits, d.subSigned), offset: d.offset } }),
      multiplier: 0.5,
    });
    const isBook = d.book !== "none";
    const spread = { none: 0, near: 1, far: 15, wide: 1 }[d.book as "near"] ?? 1;
    const codeBits = isBook
      ? d.book === "wide"
        ? Math.max(5, Math.min(7, d.codeBits))
        : d.book === "numbers"
          ? d.codeBits
          : Math.min(4, d.codeBits)
      : d.codeBits;
    const table = Array.from({ length: 2 ** codeBits }, (_, i) =>
      d.book === "numbers" ? Math.fround(Math.cos(i)) : spread * (i - 2 ** (codeBits - 1)) * (i % 2 ? 1 : -1),
    );
    const code = take(1, codeBits, d.signed && !isBook);
    const zeroPer = d.subPer === 32 ? 32 : d.block;
    const scales = {
      scale: scale(),
      ...(d.min === "min" && { min: scale() }),
      ...(d.min === "zero" && {
        zero: { field: take(zeroPer, 1 + (d.codeBits % 8), false), offset: d.subBits },
      }),
    };
    return {
      name: "described",
      block: d.block,
      bytes: Math.ceil(bit / 8),
      code,
      values: isBook ? { kind: "book", dimension: 1, table } : { kind: "affine", zero: d.zero },
      ...scales,
      ...(d.round && { round: d.round }),
    };
  });

describe("types that are only data", () => {
  it("decode exactly from the planes, whatever their fields", () => {
    fc.assert(
      fc.property(
        describedType,
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 2 ** 30 }),
        (type, rows, seed) => {
          expectExact(type, randomBlocks(type, rows, seeded(seed)), type.block);
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe("upload", () => {
  const q4 = types.find(({ name }) => name === "Q4_0")!;

  it("refuses scales that are not finite", () => {
    for (const [name, low, high] of [
      ["Q4_0", 0x00, 0x7c],
      ["Q4_0", 0x01, 0xfe],
      ["Q6_K", 0, 0xfc],
    ] as const) {
      const type = types.find((candidate) => candidate.name === name)!;
      const blocks = randomBlocks(type, 16, seeded(3));
      const at = 13 * type.bytes + (name === "Q6_K" ? 208 : 0);
      blocks[at] = low;
      blocks[at + 1] = high;
      for (const variant of variants) {
        const { weights, heap } = kits[variant];
        const before = heap.usedBytes;
        expect(() => weights.upload(linearWeight(type, 16, type.block, blocks))).toThrow(
          /infinite or not a number/,
        );
        expect(heap.usedBytes).toBe(before);
      }
    }
  });

  it("refuses weights whose sizes contradict each other", () => {
    const { weights } = kits.simd128;
    const blocks = new Uint8Array(18 * 4);
    expect(() => weights.upload(linearWeight(q4, 5, 32, blocks))).toThrow(/has 72 bytes, 90 are needed/);
    expect(() => weights.upload(linearWeight(q4, 4, 40, blocks))).toThrow(/not whole Q4_0 blocks/);
    expect(() => weights.upload(linearWeight(q4, 0, 32, blocks))).toThrow(/0 is not a size/);
    expect(() => weights.upload(linearWeight(q4, 4, 32, blocks, { bias: new Float32Array(3) }))).toThrow(
      /bias has 3/,
    );
    expect(() =>
      weights.upload({ out: 4, in: 32, segments: [{ type: q4, from: 0, to: 64, blocks }] }),
    ).toThrow(/columns 0 to 64/);
  });

  it("gives back everything, the type's tables included", () => {
    for (const variant of variants) {
      const { weights, heap } = kits[variant];
      const before = heap.usedBytes;
      const uploaded = types
        .filter((type) => type.values.kind !== "dense")
        .map((type) =>
          weights.upload(linearWeight(type, 4, 256, randomBlocks(type, 1024 / type.block, seeded(9)))),
        );
      expect(heap.usedBytes).toBeGreaterThan(before);
      for (const weight of uploaded) weights.free(weight);
      expect(heap.usedBytes).toBe(before);
    }
  });

  it("adds overlapping segments and clears uncovered columns when it decodes rows", () => {
    const f32 = types.find(({ name }) => name === "F32")!;
    const blocks = randomBlocks(q4, 4, seeded(11));
    const extra = Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    const weight = {
      out: 4,
      in: 80,
      segments: [
        { type: q4, from: 32, to: 64, blocks },
        { type: f32, from: 33, to: 35, blocks: new Uint8Array(extra.buffer) },
      ],
    };
    const base = dequantize(q4, blocks, new Float32Array(128));
    for (const variant of variants) {
      const kit = kits[variant];
      const uploaded = kit.weights.upload(weight);
      expect(uploaded.layout).toBe("ints4 g32 + dense f32");
      const rows = kit.decode(uploaded, [2]);
      const wanted = new Float32Array(80);
      wanted.set(base.subarray(64, 96), 32);
      wanted[33]! += 5;
      wanted[34]! += 6;
      expect(rows).toEqual(wanted);
      kit.weights.free(uploaded);
    }
  });
});
