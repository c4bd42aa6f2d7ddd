import {
  denseWeight,
  floatToBits,
  type LinearWeight,
  type PackedConfiguration,
  type PackedTensor,
  type PackingOptions,
  type PackingWriter,
} from "@lowbit/core";
import { Q4_0, Q8_0 } from "@lowbit/gguf";
import { buildGrid, gridShapeOf } from "@lowbit/packing";
import { packedFrom, random } from "@lowbit/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { gptqPacking as packing } from "./index.ts";

const module = "model.layers.0.self_attn.q_proj";
const role = "layers.0.attn.q";

const writer = (options: PackingOptions = {}): PackingWriter => packing.writer(options);

function configured(weights: ReadonlyMap<string, LinearWeight>, writer: PackingWriter): PackedConfiguration {
  const described = [...weights].map(
    ([name, weight]) => [name, { role, types: [], ...writer.describe!(weight) }] as const,
  );
  return writer.configuration(new Map(described), []);
}

/** Packed with a configuration of its own, and read. */
async function reread(
  weight: LinearWeight,
  writer: PackingWriter,
): Promise<{ read: LinearWeight; tensors: readonly PackedTensor[] }> {
  const tensors = writer.pack(module, weight);
  const { quantization } = configured(new Map([[module, weight]]), writer);
  const modules = await packing.open(packedFrom(tensors, quantization));
  return { read: await modules.weight(module), tensors };
}

function uniform(length: number, seed: number): Float32Array {
  const next = random(seed);
  return Float32Array.from({ length }, () => next() - 0.5);
}

interface Shape {
  bits: number;
  group: number;
  scale: "f16" | "bf16" | "f32";
  zero: "middle" | "constant" | "integer";
  shuffled: boolean;
  seed: number;
}

/** A grid of random codes, [32, 224]; inputs of a group in ascending order. */
function randomGrid({ bits, group, scale, zero, shuffled, seed }: Shape): LinearWeight {
  const [out, columns] = [32, 224];
  const next = random(seed);
  const below = (limit: number): number => Math.floor(next() * limit);
  const builder = buildGrid(out, columns, {
    bits,
    group,
    scale,
    zero: zero === "middle" ? 2 ** (bits - 1) : "integer",
  });
  const constant = 1 + below(2 ** bits - 1);
  for (let n = 0; n < out; n++) {
    builder.row(
      n,
      Uint8Array.from({ length: columns }, () => below(2 ** bits)),
      Uint32Array.from({ length: builder.groups }, () =>
        scale === "f32" ? floatToBits(next()) : below(0x7800),
      ),
      Uint8Array.from({ length: builder.groups }, () =>
        zero === "constant" ? constant : 1 + below(2 ** bits - 1),
      ),
    );
  }
  const order = Array.from({ length: columns }, (_, k) => [next(), k] as const).sort(([a], [b]) => a - b);
  const permute = Int32Array.from(order, ([, k]) => k);
  for (let from = 0; from < columns; from += group) permute.subarray(from, from + group).sort();
  return {
    out,
    in: columns,
    segments: builder.segments,
    ...(shuffled && group < columns && { permute }),
    ...(next() < 0.5 && { bias: uniform(out, seed) }),
  };
}

const shapes: fc.Arbitrary<Shape> = fc.record({
  bits: fc.constantFrom(2, 3, 4, 8),
  group: fc.constantFrom(8, 32, 60, 128, 224),
  scale: fc.constantFrom("f16" as const, "bf16" as const, "f32" as const),
  zero: fc.constantFrom("middle" as const, "constant" as const, "integer" as const),
  shuffled: fc.boolean(),
  seed: fc.nat(),
});

describe("holding", () => {
  it("any grid: written, read, equal", async () => {
    const variants = fc.constantFrom("gptq", "gptq_v2", "gptq_p");
    await fc.assert(
      fc.asyncProperty(shapes, variants, async (shape, variant) => {
        const weight = randomGrid(shape);
        const own = writer({ variant });
        expect(own.hold(weight)).toBe(weight);
        const { read, tensors } = await reread(weight, own);
        expect(read).toEqual(weight);
        expect(own.pack(module, read)).toEqual(tensors);
      }),
      { seed: 5, numRuns: 60 },
    );
  });

  it("blocks of GGUF, in the type that a reader of the new file gives", async () => {
    const next = random(3);
    for (const [type, bits] of [
      [Q4_0, 4],
      [Q8_0, 8],
    ] as const) {
      const blocks = Uint8Array.from({ length: 32 * 3 * type.bytes }, (_, i) =>
        i % type.bytes === 1 ? 0x20 : next() * 256,
      );
      const weight = { out: 32, in: 96, segments: [{ type, from: 0, to: 96, blocks }] };
      const held = writer().hold(weight)!;
      expect(gridShapeOf(held.segments[0]!.type)).toMatchObject({ bits, group: 32, zero: 2 ** (bits - 1) });
      expect(denseWeight(held)).toEqual(denseWeight(weight));
      expect((await reread(held, writer())).read).toEqual(held);
    }
  });

  it("5, 6 and 7 bits in planes only", async () => {
    for (const bits of [5, 6, 7]) {
      const weight = randomGrid({
        bits,
        group: 32,
        scale: "f16",
        zero: "integer",
        shuffled: true,
        seed: bits,
      });
      expect(writer({ variant: "gptq_v2" }).hold(weight)).toBeUndefined();
      expect((await reread(weight, writer({ bits }))).read).toEqual(weight);
    }
  });

  it("inputs in any order within groups are sorted as a reader sorts them", async () => {
    const weight = randomGrid({ bits: 4, group: 32, scale: "f16", zero: "middle", shuffled: true, seed: 1 });
    const permute = weight.permute!.slice().reverse();
    const held = writer().hold({ ...weight, permute })!;
    expect(denseWeight(held)).toEqual(denseWeight({ ...weight, permute }));
    expect((await reread(held, writer())).read).toEqual(held);
    // What an order within groups alone amounts to is no order.
    const within = Int32Array.from({ length: 224 }, (_, j) => (j & ~31) + 31 - (j & 31));
    expect(writer().hold({ ...weight, permute: within })!.permute).toBeUndefined();
  });

  it("not what version 1 cannot say, or the format cannot hold", () => {
    const weight = randomGrid({ bits: 4, group: 32, scale: "f16", zero: "middle", shuffled: false, seed: 1 });
    const { in: columns, out } = weight;
    const made = (bits: number, zero: number, scale: "f16" | "none" = "f16"): LinearWeight => {
      const builder = buildGrid(out, columns, { bits, group: 32, scale, zero });
      return { out, in: columns, segments: builder.segments };
    };
    expect(writer().hold(made(4, 0))).toBeUndefined();
    expect(writer({ variant: "gptq_v2" }).hold(made(4, 0))).toBeDefined();
    expect(writer({ variant: "gptq_v2" }).hold(made(4, 16))).toBeUndefined();
    expect(writer().hold(made(4, 8, "none"))).toBeUndefined();
    expect(writer().hold(made(6, 32))).toBeUndefined();
    expect(writer().hold({ ...weight, rowScale: new Float32Array(out) })).toBeUndefined();
    expect(writer().hold({ ...weight, out: 16, experts: 2 })).toBeUndefined();
    expect(() => writer().pack(module, made(4, 0))).toThrow(/q_proj/);
    expect(() => writer().pack(module, made(6, 32))).toThrow(/q_proj/);
    const odd = buildGrid(12, 32, { bits: 4, group: 32, scale: "f16", zero: 8 });
    expect(writer().hold({ out: 12, in: 32, segments: odd.segments })).toBeUndefined();
  });
});

describe("quantizing", () => {
  it.each([2, 3, 4, 5, 6, 7, 8].flatMap((bits) => [true, false].map((symmetric) => ({ bits, symmetric }))))(
    "$bits bits, symmetric $symmetric: the error is at most half a step",
    async ({ bits, symmetric }) => {
      // The last group is short.
      const [out, columns] = [32, 224];
      const values = uniform(out * columns, bits);
      const own = writer({ bits, symmetric, groupSize: 128 });
      const weight = own.quantize(values, { out, in: columns, role })!;
      expect(weight.segments.map(({ to }) => to)).toEqual([128, 224]);
      // Weights from −0.5 to 0.5, a scale rounded to a half, and a code that may lack at the end of a range.
      const step = (1 / (2 ** bits - 1)) * (symmetric ? 1 : 1.01);
      const dense = denseWeight(weight);
      expect(values.reduce((most, value, i) => Math.max(most, Math.abs(value - dense[i]!)), 0)).toBeLessThan(
        step,
      );
      const mean = values.reduce((sum, value, i) => sum + Math.abs(value - dense[i]!), 0) / values.length;
      expect(mean).toBeLessThan(0.3 * step);
      expect(own.hold(weight)).toBe(weight);
      expect((await reread(weight, own)).read).toEqual(weight);
    },
  );

  it("zeros stay zeros, and version 1 lifts zero points from 0", async () => {
    const zeros = writer().quantize(new Float32Array(32 * 64), { out: 32, in: 64, role })!;
    expect(denseWeight(zeros)).toEqual(new Float32Array(32 * 64));
    const positive = uniform(32 * 64, 1).map((value) => value + 0.5);
    const own = writer({ symmetric: false, variant: "gptq" });
    const weight = own.quantize(positive, { out: 32, in: 64, role })!;
    expect(own.hold(weight)).toBe(weight);
    const off = denseWeight(weight).map((value, i) => Math.abs(value - positive[i]!));
    expect(Math.max(...off)).toBeLessThan(1.6 / 15);
  });

  it("NaN and what halves cannot scale are refused", () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, 1e7]) {
      const values = new Float32Array(32 * 32).fill(value, 5, 6);
      expect(() => writer().quantize(values, { out: 32, in: 32, role })).toThrow(/finite/);
    }
  });

  it("embeddings, heads, routers, stacks and odd sizes stay plain", () => {
    const values = new Float32Array(32 * 64);
    const shape = { out: 32, in: 64, role };
    for (const role of ["embed", "embed.position", "head", "layers.0.ffn.router"])
      expect(writer().quantize(values, { ...shape, role })).toBeUndefined();
    expect(writer().quantize(values, { ...shape, out: 16, experts: 2 })).toBeUndefined();
    expect(writer().quantize(values.subarray(0, 30 * 64), { ...shape, out: 30 })).toBeUndefined();
    expect(writer({ bits: 3 }).quantize(values.subarray(0, 24 * 64), { ...shape, out: 24 })).toBeUndefined();
  });

  it("choices that it does not have are refused", () => {
    for (const options of [
      { bits: 1 },
      { bits: 9 },
      { bits: 5, variant: "gptq" },
      { groupSize: 0 },
      { groupSize: 12 },
      { variant: "marlin" },
    ])
      expect(() => writer(options)).toThrow(/GPTQ/);
  });
});

describe("the configuration", () => {
  it("is that of AutoGPTQ, in both places", () => {
    const own = writer();
    const weight = own.quantize(uniform(32 * 256, 1), { out: 32, in: 256, role })!;
    const { quantization, files } = configured(new Map([[module, weight]]), own);
    expect(quantization).toEqual({
      bits: 4,
      group_size: 128,
      damp_percent: 0.01,
      desc_act: false,
      static_groups: false,
      sym: true,
      lm_head: false,
      true_sequential: true,
      model_name_or_path: null,
      model_file_base_name: null,
      quant_method: "gptq",
      checkpoint_format: "gptq",
    });
    expect(files).toEqual({ "quantize_config.json": quantization });
    expect(writer({ symmetric: false, bits: 3, groupSize: 64 }).configuration(new Map(), [])).toMatchObject({
      quantization: { bits: 3, group_size: 64, sym: false, checkpoint_format: "gptq_v2" },
    });
  });

  it("has overrides for modules unlike most, which the reader understands", async () => {
    const own = writer({ variant: "gptq_v2" });
    const shape = { scale: "f16", zero: "integer", shuffled: false } as const;
    const weights = new Map(
      [
        { ...shape, bits: 4, group: 32, seed: 1 },
        { ...shape, bits: 8, group: 32, seed: 2 },
        { ...shape, bits: 4, group: 32, seed: 3, shuffled: true },
        { ...shape, bits: 4, group: 224, seed: 4 },
        { ...shape, bits: 2, group: 224, seed: 5, zero: "middle" as const },
      ].map((shape, i) => [`model.layers.${i}.mlp.down_proj`, randomGrid(shape)]),
    );
    const { quantization } = configured(weights, own);
    expect(quantization).toMatchObject({ bits: 4, group_size: 32, desc_act: true, sym: false });
    expect(Object.keys(quantization.dynamic as object)).toEqual(
      [1, 3, 4].map((i) => `+:^model\\.layers\\.${i}\\.mlp\\.down_proj$`),
    );
    const tensors = [...weights].flatMap(([name, weight]) => own.pack(name, weight));
    const modules = await packing.open(packedFrom(tensors, quantization));
    for (const [name, weight] of weights) {
      expect(denseWeight(await modules.weight(name))).toEqual(denseWeight(weight));
    }
  });
});
