import { denseWeight, type LinearWeight } from "@lowbit/core";
import { gridType } from "@lowbit/packing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LinearKit, linearWeight, normals, randomBlocks, seeded } from "../test/linear-kit.ts";
import { otherTypes } from "../test/other-types.ts";

const variants = ["simd128", "relaxed", "narrow"] as const;
const kits = {
  simd128: new LinearKit("simd128"),
  relaxed: new LinearKit("relaxed"),
  narrow: new LinearKit("narrow"),
};
const bits = (values: Float32Array): Int32Array =>
  new Int32Array(values.buffer, values.byteOffset, values.length);
/** denseWeight adds to 0, which loses the sign of a zero. */
const unsigned = (values: Float32Array): Int32Array => bits(values.map((value) => value + 0));

describe("weights of formats other than GGUF", () => {
  it("whose groups 16 does not divide are held as f32", () => {
    const type = gridType({ bits: 4, group: 40, scale: "f16", zero: "integer" });
    const weight = linearWeight(type, 3, 160, randomBlocks(type, 12, seeded(7)));
    const { weights } = kits.simd128;
    const uploaded = weights.upload(weight);
    expect(uploaded.layout).toBe("dense f32");
    expect(unsigned(kits.simd128.decode(uploaded, [0, 1, 2]))).toEqual(unsigned(denseWeight(weight)));
    weights.free(uploaded);
  });

  it("keep a zero point as a byte beside the scales", () => {
    const shape = { bits: 4, group: 128, scale: "f16" } as const;
    const { weights } = kits.simd128;
    expect(weights.layout(gridType({ ...shape, zero: 8 }))).toEqual({
      name: "ints4 g32",
      bitsPerWeight: 4 + 16 / 128,
    });
    expect(weights.layout(gridType({ ...shape, zero: "integer" }))).toEqual({
      name: "ints4 g32",
      bitsPerWeight: 4 + 24 / 128,
    });
    expect(weights.layout(gridType({ ...shape, zero: "f16" })).bitsPerWeight).toBe(4 + 48 / 128);
  });

  it("share an order of inputs where theirs are equal", () => {
    const type = gridType({ bits: 4, group: 64, scale: "f16", zero: 8 });
    const { weights, heap } = kits.simd128;
    const blocks = randomBlocks(type, 4 * 64, seeded(8));
    const permute = Int32Array.from({ length: 4096 }, (_, j) => 4095 - j);
    const first = weights.upload(linearWeight(type, 4, 4096, blocks, { permute }));
    const before = heap.usedBytes;
    const second = weights.upload(linearWeight(type, 4, 4096, blocks, { permute: permute.slice() }));
    expect(second.order).toBe(first.order);
    expect(heap.usedBytes - before).toBeLessThan(second.bytes + 4 * 4096);
    weights.free(first);
    expect(kits.simd128.decode(second, [1])[0]).toBe(
      denseWeight(linearWeight(type, 4, 4096, blocks))[2 * 4096 - 1],
    );
    weights.free(second);
  });

  /** Segments of random types, groups and lengths; experts, an order of inputs and row scales or not. */
  const described = fc.record({
    out: fc.integer({ min: 1, max: 9 }),
    experts: fc.integer({ min: 1, max: 3 }),
    parts: fc.array(
      fc.record({ type: fc.constantFrom(...otherTypes), blocks: fc.integer({ min: 1, max: 3 }) }),
      { minLength: 1, maxLength: 4 },
    ),
    permuted: fc.boolean(),
    scaled: fc.boolean(),
    seed: fc.integer({ min: 1, max: 2 ** 30 }),
  });

  it("decode and multiply right, take no more memory than planned, and give it back", () => {
    fc.assert(
      fc.property(described, ({ out, experts, parts, permuted, scaled, seed }) => {
        const random = seeded(seed);
        const rows = out * experts;
        let end = 0;
        const segments = parts.map(({ type, blocks }) => {
          // Numbers without a block come in sixteens.
          const from = end;
          end += blocks * (type.block === 1 ? 16 : type.block);
          return {
            type,
            from,
            to: end,
            blocks: randomBlocks(type, (rows * (end - from)) / type.block, random),
          };
        });
        const keys = Float32Array.from({ length: end }, random);
        const weight: LinearWeight = {
          out,
          in: end,
          experts,
          segments,
          ...(permuted && {
            permute: Int32Array.from(keys.keys()).sort((a, b) => keys[a]! - keys[b]!),
          }),
          ...(scaled && { rowScale: Float32Array.from({ length: rows }, () => 2 * random() - 1) }),
        };
        const wanted = denseWeight(weight);
        const largest = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        const inexact = segments.some(({ type }) => type.zero?.format !== undefined);
        const expert = experts - 1;
        const x = normals(3 * end, random);
        const products = variants.map((variant) => {
          const kit = kits[variant];
          const before = kit.heap.usedBytes;
          const uploaded = kit.weights.upload(weight);
          const planned = segments.map(({ type, from, to }) =>
            kit.weights.weightBytes(type, rows, to - from),
          );
          const orderBytes = uploaded.order === undefined ? 0 : 4 * uploaded.columns;
          // Rows of experts lie in bands of sixteen.
          const padding = (16 * Math.ceil(out / 16)) / out;
          const most = padding * planned.reduce((sum, bytes) => sum + bytes) + 4 * (end + rows) + 128;
          expect(uploaded.bytes + orderBytes).toBeLessThanOrEqual(most);
          const decoded = kit.decode(
            uploaded,
            Array.from({ length: rows }, (_, row) => row),
          );
          if (inexact) {
            const worst = decoded.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0);
            expect(worst).toBeLessThanOrEqual(2 ** -20 * largest);
          } else expect(unsigned(decoded)).toEqual(unsigned(wanted));
          const y = kit.matmul(uploaded, x, 3, { expert });
          kit.weights.free(uploaded);
          expect(kit.heap.usedBytes).toBe(before);
          return y;
        });
        for (const other of products) expect(bits(other)).toEqual(bits(products[0]!));
        products[0]!.forEach((y, i) => {
          const row = (expert * out + (i % out)) * end;
          const token = Math.floor(i / out) * end;
          let sum = 0;
          let sizes = 0;
          for (let k = 0; k < end; k++) {
            sum += wanted[row + k]! * x[token + k]!;
            sizes += Math.abs(wanted[row + k]!);
          }
          // Activations lie below 2 and are off by half a step of 2/127; roundings left out add at most 2^-8.
          const terms = largest * end;
          expect(Math.abs(y - sum)).toBeLessThanOrEqual(
            (2 / 254) * 1.01 * sizes + (2 ** -8 + 1e-5) * 2 * sizes + 1e-5 * terms,
          );
        });
      }),
      { numRuns: 120 },
    );
  });
});
