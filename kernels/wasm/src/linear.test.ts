import { readFileSync } from "node:fs";
import { dequantize, type QuantType } from "@lowbit/core";
import { ggmlTypes } from "@lowbit/gguf";
import { describeWithData, testData } from "@lowbit/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  exactProduct,
  LinearKit,
  linearWeight,
  normals,
  quantizeActivations,
  randomBlocks,
  seeded,
  termMagnitudes,
} from "../test/linear-kit.ts";
import { inexactness, otherTypes } from "../test/other-types.ts";
import { activationBytes } from "./weights.ts";

const variants = ["simd128", "relaxed", "narrow"] as const;
const kits = {
  simd128: new LinearKit("simd128"),
  relaxed: new LinearKit("relaxed"),
  narrow: new LinearKit("narrow"),
};
const types = [
  ...[...ggmlTypes.values()].filter(({ name }) => !["F64", "I8", "I16", "I32", "I64"].includes(name)),
  ...otherTypes,
];
const byName = (name: string): QuantType => types.find((type) => type.name === name)!;
const bits = (values: Float32Array): Int32Array =>
  new Int32Array(values.buffer, values.byteOffset, values.length);

/** Rounding of f32 sums over one row, relative to Σ|w||x|: nothing else may differ from exact arithmetic. */
const rounding = 4e-6;

function dense(type: QuantType): boolean {
  return type.values.kind === "dense";
}

/** Do the kernels multiply f32, with activations as they are? */
function inFloats(type: QuantType): boolean {
  return /dense|floats/.test(kits.simd128.weights.layout(type).name);
}

/** A weight in both builds, its product with x compared between them and with exact arithmetic. */
function expectProduct(
  type: QuantType,
  rows: number,
  columns: number,
  blocks: Uint8Array,
  x: Float32Array,
): void {
  const tokens = x.length / columns;
  const weights = dequantize(type, blocks, new Float32Array(rows * columns));
  const { scale, codes } = quantizeActivations(x, columns);
  const perRow = Math.ceil(columns / 32);
  const seen = Float64Array.from(codes, (q, i) => {
    const row = Math.floor(i / columns);
    return q * scale[row * perRow + Math.floor((i % columns) / 32)]!;
  });
  const magnitudes = termMagnitudes(type, blocks, rows * columns);
  const exact = exactProduct(weights, magnitudes, inFloats(type) ? x : seen, columns);
  const results = variants.map((variant) => {
    const kit = kits[variant];
    const weight = kit.weights.upload(linearWeight(type, rows, columns, blocks));
    const y = kit.matmul(weight, x, tokens);
    kit.weights.free(weight);
    return y;
  });
  for (const other of results) expect(bits(other)).toEqual(bits(results[0]!));
  const worst = Math.max(
    ...Array.from(results[0]!, (y, i) => Math.abs(y - exact.y[i]!) / (exact.magnitude[i]! + 1e-30)),
  );
  expect({ type: type.name, worst, within: worst <= rounding + inexactness(type) }).toEqual({
    type: type.name,
    worst,
    within: true,
  });
}

describe("activations", () => {
  it("are quantized as described, and hold what the formula says", () => {
    for (const columns of [1, 31, 32, 172, 576]) {
      const x = normals(3 * columns, seeded(columns));
      if (columns === 172) x.fill(0, 32, 64).fill(1e-38, 64, 96);
      const { scale, codes } = quantizeActivations(x, columns);
      const perRow = Math.ceil(columns / 32);
      const wanted = Float32Array.from(
        codes,
        (q, i) => scale[Math.floor(i / columns) * perRow + Math.floor((i % columns) / 32)]! * q,
      );
      for (const variant of variants) {
        expect(kits[variant].quantized(x, columns)).toEqual(wanted);
        expect(kits[variant].exports.activation_bytes(3, columns)).toBeLessThanOrEqual(
          activationBytes(3, columns),
        );
      }
      const error = Math.max(...x.map((value, i) => Math.abs(value - wanted[i]!)));
      expect(error).toBeLessThanOrEqual(Math.max(...scale) / 2 + 1e-6);
    }
  });

  it("round halves to even", () => {
    const x = new Float32Array(32);
    x.set([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]);
    for (const variant of variants) {
      expect([...kits[variant].quantized(x, 32).subarray(0, 8)]).toEqual([127, 0, 2, 2, 0, -2, -2, 126]);
    }
  });

  it("carry a NaN or an infinity into the product", () => {
    const type = byName("Q4_0");
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const x = normals(64, seeded(1));
      x[40] = bad;
      for (const variant of variants) {
        const weight = kits[variant].weights.upload(
          linearWeight(type, 4, 64, randomBlocks(type, 8, seeded(2))),
        );
        expect([...kits[variant].matmul(weight, x, 1)]).toEqual([
          Number.NaN,
          Number.NaN,
          Number.NaN,
          Number.NaN,
        ]);
        kits[variant].weights.free(weight);
      }
    }
  });
});

describe("products", () => {
  it.each(types.map((type) => [type.name, type] as const))("%s, random blocks, 1 to 9 tokens", (_, type) => {
    const random = seeded(type.name.length * 104729 + type.bytes);
    const unit = Math.max(32, type.block);
    for (const [rows, units, tokens] of [
      [4, 1, 1],
      [7, 2, 2],
      [33, 3, 5],
      [18, 4, 9],
      // Several chunks of columns, the last one shorter.
      [19, unit > 32 ? 9 : 71, 6],
    ] as const) {
      const columns = unit * units;
      const blocks = dense(type)
        ? finiteDense(type, rows * columns, random)
        : randomBlocks(type, (rows * columns) / type.block, random);
      expectProduct(type, rows, columns, blocks, normals(tokens * columns, random));
    }
  });

  it("rows longer than a chunk of columns", () => {
    const random = seeded(77);
    const names = ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_NL", "F32", "F16", "e4m3", "16 numbers per 64"];
    for (const type of [...names.map(byName), otherTypes[3]!, otherTypes[9]!, otherTypes[10]!]) {
      const columns = type.block % 3 === 0 ? 4896 - (4896 % type.block) : 2048 * 2 + 768;
      const blocks = dense(type)
        ? finiteDense(type, 5 * columns, random)
        : randomBlocks(type, (5 * columns) / type.block, random);
      expectProduct(type, 5, columns, blocks, normals(3 * columns, random));
    }
  });

  it("extreme operands: every code, ±127 activations, sums at their largest", () => {
    for (const name of ["Q8_0", "IQ4_NL", "Q6_K", "Q5_1", "MXFP4"]) {
      const type = byName(name);
      const columns = Math.max(64, type.block);
      const blocks = randomBlocks(type, (8 * columns) / type.block, seeded(8));
      if (name === "Q8_0")
        for (let i = 0; i < blocks.length; i++) if (i % 34 >= 2) blocks[i] = i % 3 === 0 ? 127 : 128;
      const x = Float32Array.from(
        { length: 4 * columns },
        (_, i) => (Math.floor(i / columns) % 2 === 0 ? 1 : -1) * (i % 5 === 0 ? -1 : 1),
      );
      expectProduct(type, 8, columns, blocks, x);
    }
  });

  it("scales that are subnormal halves", () => {
    const type = byName("Q4_0");
    const blocks = randomBlocks(type, 16, seeded(4));
    for (let b = 0; b < 16; b++) blocks.set([(b * 77) & 255, b & 1 ? 0x80 : 0x02], b * 18);
    expectProduct(type, 8, 64, blocks, normals(128, seeded(5)));
  });

  it("dense rows of any length", () => {
    const random = seeded(21);
    for (const name of ["F32", "F16", "BF16"]) {
      for (const columns of [1, 5, 172, 700]) {
        const type = byName(name);
        expectProduct(type, 9, columns, finiteDense(type, 9 * columns, random), normals(6 * columns, random));
      }
    }
  });
});

describeWithData("golden ggml blocks", ["golden/ggml"], () => {
  const packed = types.filter(
    (type) => !dense(type) && testData(`golden/ggml/${type.name}.q.bin`) !== undefined,
  );
  it.each(packed.map((type) => [type.name, type] as const))(
    "%s: close to the product with unquantized activations",
    (_, type) => {
      const blocks = new Uint8Array(readFileSync(testData(`golden/ggml/${type.name}.q.bin`)!));
      const columns = 256;
      const rows = ((blocks.length / type.bytes) * type.block) / columns;
      const x = normals(4 * columns, seeded(12));
      expectProduct(type, rows, columns, blocks, x);
      const weights = dequantize(type, blocks, new Float32Array(rows * columns));
      const exact = exactProduct(weights, weights.map(Math.abs), x, columns);
      const kit = kits.relaxed;
      const weight = kit.weights.upload(linearWeight(type, rows, columns, blocks));
      const y = kit.matmul(weight, x, 4);
      kit.weights.free(weight);
      // Each activation is off by at most half a step, 1/254 of its block's largest; errors are independent.
      const error = Math.sqrt(y.reduce((sum, value, i) => sum + (value - exact.y[i]!) ** 2, 0) / y.length);
      const size = Math.sqrt(exact.y.reduce((sum, value) => sum + value ** 2, 0) / y.length);
      expect(error / size).toBeLessThan(0.012);
    },
  );
});

function finiteDense(type: QuantType, count: number, random: () => number): Uint8Array {
  if (type.bytes === 1) return randomBlocks(type, count, random);
  const values = normals(count, random);
  if (type.bytes === 4) return new Uint8Array(values.buffer);
  const words = Uint16Array.from(values, (value, i) => {
    if (type.name === "BF16") return bits(Float32Array.of(value))[0]! >>> 16;
    return ((i * 40503) & 0x8000) | ((Math.abs(value) * 15000) & 0x3bff);
  });
  return new Uint8Array(words.buffer);
}

const shape = fc.record({
  type: fc.constantFrom(...types),
  rows: fc.integer({ min: 1, max: 40 }),
  units: fc.constantFrom(1, 2, 3, 10, 35),
  tokens: fc.integer({ min: 1, max: 70 }),
  seed: fc.integer({ min: 1, max: 2 ** 30 }),
});

describe("results do not depend on how the work is cut", () => {
  it("tokens one by one, rows in ranges and both builds give the same bits", () => {
    fc.assert(
      fc.property(shape, fc.nat(), ({ type, rows, units, tokens, seed }, cut) => {
        const random = seeded(seed);
        const columns = Math.max(32, type.block) * units;
        const blocks = dense(type)
          ? finiteDense(type, rows * columns, random)
          : randomBlocks(type, (rows * columns) / type.block, random);
        const x = normals(tokens * columns, random);
        const token = cut % tokens;
        const split = Math.min(rows, 16 * (cut % 4));
        let first: Int32Array | undefined;
        for (const variant of variants) {
          const kit = kits[variant];
          const weight = kit.weights.upload(linearWeight(type, rows, columns, blocks));
          const whole = kit.matmul(weight, x, tokens);
          first ??= bits(whole);
          expect(bits(whole)).toEqual(first);
          const alone = kit.matmul(weight, x.slice(token * columns, (token + 1) * columns), 1);
          expect(bits(alone)).toEqual(bits(whole).slice(token * rows, (token + 1) * rows));
          const upper = kit.matmul(weight, x, tokens, { rowTo: split });
          const lower = kit.matmul(weight, x, tokens, { rowFrom: split });
          whole.forEach((value, i) => {
            expect(i % rows < split ? upper[i] : lower[i]).toBe(value);
            expect(i % rows < split ? lower[i] : upper[i]).toBe(-7);
          });
          kit.weights.free(weight);
        }
      }),
      { numRuns: 60 },
    );
  });

  it("experts, bias and scattered rows", () => {
    fc.assert(
      fc.property(shape, fc.integer({ min: 1, max: 4 }), ({ type, rows, units, tokens, seed }, experts) => {
        const random = seeded(seed);
        const columns = Math.max(32, type.block) * units;
        const size = experts * rows * columns;
        const blocks = dense(type)
          ? finiteDense(type, size, random)
          : randomBlocks(type, size / type.block, random);
        const bias = normals(experts * rows, random);
        const x = normals(tokens * columns, random);
        const expert = seed % experts;
        const own = blocks.slice(
          (expert * blocks.length) / experts,
          ((expert + 1) * blocks.length) / experts,
        );
        const xRows = Array.from({ length: tokens }, (_, t) => (t * 7 + seed) % tokens);
        const yRows = Array.from({ length: tokens }, (_, t) => 2 * (tokens - 1 - t));
        for (const variant of variants) {
          const kit = kits[variant];
          const all = kit.weights.upload(linearWeight(type, rows, columns, blocks, { experts, bias }));
          const one = kit.weights.upload(
            linearWeight(type, rows, columns, own, { bias: bias.slice(expert * rows, (expert + 1) * rows) }),
          );
          const plain = kit.matmul(one, x, tokens);
          const scattered = kit.matmul(all, x, tokens, { expert, xRows, yRows });
          for (let t = 0; t < tokens; t++) {
            const got = bits(scattered).slice(yRows[t]! * rows, (yRows[t]! + 1) * rows);
            expect(got).toEqual(bits(plain).slice(xRows[t]! * rows, (xRows[t]! + 1) * rows));
          }
          kit.weights.free(all);
          kit.weights.free(one);
        }
      }),
      { numRuns: 40 },
    );
  });
});

describe("segments", () => {
  it("of several types are summed, gaps count as zero", () => {
    const random = seeded(31);
    const [q4, q8, f32] = [byName("Q4_0"), byName("Q8_0"), byName("F32")];
    const rows = 10;
    const columns = 172;
    const parts = [
      { type: q4, from: 0, to: 64 },
      { type: q8, from: 64, to: 128 },
      { type: q8, from: 132, to: 164 },
      { type: f32, from: 3, to: 70 },
    ].map((part) => {
      const count = rows * (part.to - part.from);
      const blocks =
        part.type === f32 ? finiteDense(f32, count, random) : randomBlocks(part.type, count / 32, random);
      return { ...part, blocks };
    });
    const full = new Float32Array(rows * columns);
    for (const { type, from, to, blocks } of parts) {
      const values = dequantize(type, blocks, new Float32Array(rows * (to - from)));
      values.forEach((value, i) => {
        full[Math.floor(i / (to - from)) * columns + from + (i % (to - from))]! += value;
      });
    }
    const x = normals(5 * columns, random);
    const exact = exactProduct(full, full.map(Math.abs), x, columns);
    const results = variants.map((variant) => {
      const kit = kits[variant];
      const weight = kit.weights.upload({ out: rows, in: columns, segments: parts });
      expect(weight.layout).toBe("ints4 g32 + ints8 g32 + dense f32");
      const y = kit.matmul(weight, x, 5);
      kit.weights.free(weight);
      return y;
    });
    for (const other of results) expect(bits(other)).toEqual(bits(results[0]!));
    results[0]!.forEach((y, i) => {
      expect(Math.abs(y - exact.y[i]!)).toBeLessThan(0.01 * exact.magnitude[i]!);
    });
  });
});
