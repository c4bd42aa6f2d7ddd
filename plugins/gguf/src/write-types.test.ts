import {
  type Checkpoint,
  denseWeight,
  floatToBits,
  floatToHalf,
  halfToFloat,
  type LinearWeight,
  type QuantType,
  type WeightEntry,
} from "@lowbit/core";
import { wasm } from "@lowbit/kernels-wasm";
import { buildGrid, type GridShape } from "@lowbit/packing";
import { random, tinyModelBytes } from "@lowbit/testing";
import { compareProbabilities, softmaxRows } from "@lowbit/testing/llama-cpp";
import { describe, expect, it } from "vitest";
import {
  divergenceFromTheirs,
  elsewhere,
  finished,
  logits,
  reopened,
  staging,
  written,
} from "../test/written.ts";
import {
  BF16,
  F32,
  ggufWriter,
  MXFP4,
  NVFP4,
  Q4_0,
  Q4_1,
  Q4_K,
  Q5_0,
  Q5_1,
  Q8_0,
  quantizeTo,
} from "./index.ts";

describe("grids of integers", () => {
  const grid = (shape: GridShape, zeros: (g: number) => number, top = 2 ** shape.bits): LinearWeight => {
    const uniform = random(shape.bits + shape.group);
    const builder = buildGrid(6, 256, shape);
    for (let r = 0; r < 6; r++) {
      const codes = Uint8Array.from({ length: 256 }, () => Math.floor(top * uniform()));
      const scales = Array.from({ length: builder.groups }, () => floatToHalf(0.01 + uniform()));
      builder.row(
        r,
        codes,
        scales,
        Array.from({ length: builder.groups }, (_, g) => zeros(g + r)),
      );
    }
    return { out: 6, in: 256, segments: builder.segments };
  };
  const f16 = { scale: "f16" } as const;

  it.each([
    ["4 bits around 8", grid({ bits: 4, group: 128, zero: 8, ...f16 }, () => 8), Q4_0, true],
    ["3 bits around 4", grid({ bits: 3, group: 64, zero: 4, ...f16 }, () => 4), Q4_0, false],
    ["4 bits from 0", grid({ bits: 4, group: 32, zero: 0, ...f16 }, () => 0), Q4_1, false],
    [
      "4 bits, any zero points",
      grid({ bits: 4, group: 128, zero: "integer", ...f16 }, (g) => g % 16),
      Q5_0,
      false,
    ],
    ["5 bits from 0", grid({ bits: 5, group: 32, zero: 0, ...f16 }, () => 0), Q5_1, false],
    ["8 bits around 128", grid({ bits: 8, group: 256, zero: 128, ...f16 }, () => 128), Q8_0, true],
  ] as const)("%s", async (_, weight, type, moved) => {
    const writer = await ggufWriter({ format: "gguf", metadata: new Map(), config: {} as never }, {});
    const stored = writer.store("layers.0.attn.q", weight);
    expect([stored.tensors[0]?.dtype, stored.moved]).toEqual([type.name, moved]);
    expect(denseWeight(stored.weight as LinearWeight).map((v) => v + 0)).toEqual(
      denseWeight(weight).map((v) => v + 0),
    );
  });

  it("that are permuted, where the inputs of a block stay in one group", async () => {
    const weight = grid({ bits: 4, group: 128, zero: 8, ...f16 }, () => 8);
    const reversed = { ...weight, permute: Int32Array.from({ length: 256 }, (_, j) => 255 - j) };
    expect(await stored(reversed)).toEqual(["Q4_0", false]);
    const mixed = { ...weight, permute: Int32Array.from({ length: 256 }, (_, j) => (j * 3) % 256) };
    expect(await stored(mixed)).toEqual(["F32", false]);
  });

  it("with row scales, where the two scales come to a half", async () => {
    const weight = grid({ bits: 4, group: 128, zero: 8, ...f16 }, () => 8);
    expect(await stored({ ...weight, rowScale: new Float32Array(6).fill(2) })).toEqual(["Q4_0", false]);
    expect(await stored({ ...weight, rowScale: new Float32Array(6).fill(1 / 3) })).toEqual(["F32", false]);
    const bytes = grid({ bits: 8, group: 256, zero: 128, scale: "none" }, () => 128);
    const halves = Float32Array.from({ length: 6 }, (_, r) => halfToFloat(0x2000 + r));
    expect(await stored({ ...bytes, rowScale: halves })).toEqual(["Q8_0", false]);
  });

  it("with scales of other formats, where these are halves", async () => {
    const wide = (value: number) => {
      const builder = buildGrid(1, 64, { bits: 4, group: 64, zero: 8, scale: "f32" });
      builder.row(0, new Uint8Array(64).fill(3), [floatToBits(value)]);
      return { out: 1, in: 64, segments: builder.segments };
    };
    expect(await stored(wide(0.75))).toEqual(["Q4_0", false]);
    expect(await stored(wide(1e-20))).toEqual(["F32", false]);
  });

  it("not where values are rounded, or groups are no whole blocks", async () => {
    expect(await stored(grid({ bits: 4, group: 128, zero: 8, ...f16, round: "f16" }, () => 8))).toEqual([
      "F16",
      false,
    ]);
    expect(await stored(grid({ bits: 8, group: 16, zero: 128, ...f16 }, () => 128))).toEqual(["F32", false]);
  });
});

/** Type and `moved` of what a weight is kept in, which has its values. */
async function stored(weight: LinearWeight): Promise<[type: string | undefined, moved: boolean]> {
  const writer = await ggufWriter({ format: "gguf", metadata: new Map(), config: {} as never }, {});
  const kept = writer.store("layers.0.attn.q", weight);
  const positive = (value: LinearWeight) => denseWeight(value).map((v) => v + 0);
  expect(positive(kept.weight as LinearWeight)).toEqual(positive(weight));
  return [kept.tensors[0]?.dtype, kept.moved];
}

describe("blocks that are ggml's, under another name", () => {
  const uniform = random(3);
  const blocksOf = (type: QuantType, count: number): Uint8Array =>
    Uint8Array.from({ length: type.bytes * count }, () => Math.floor(120 * uniform()));

  it.each([MXFP4, NVFP4, Q4_K, Q8_0, BF16])("$name moves", async (type) => {
    const width = 4 * type.block;
    const segment = { type: { ...type, name: "theirs" }, from: 0, to: width, blocks: blocksOf(type, 8) };
    expect(await stored({ out: 2, in: width, segments: [segment] })).toEqual([type.name, true]);
  });

  it("NVFP4 has a factor beside its blocks, and keeps it", async () => {
    const segment = { type: NVFP4, from: 0, to: 128, blocks: blocksOf(NVFP4, 8) };
    const weight = { out: 2, in: 128, experts: 2, segments: [segment] };
    const factors = { ...weight, rowScale: Float32Array.of(0.3, 0.3, 5, 5) };
    expect(await stored(factors)).toEqual(["NVFP4", true]);
    expect(await stored({ ...weight, rowScale: Float32Array.of(1, 2, 3, 4) })).toEqual(["F16", false]);
    const source = await reopened(await tinyModelBytes({ architecture: "llama" }));
    const writer = await ggufWriter(source, {});
    const role = "layers.0.ffn.experts.up";
    const { tensors } = writer.store(role, factors);
    expect(tensors.map(({ name, shape }) => [name, shape])).toEqual([
      ["blk.0.ffn_up_exps.weight", [2, 2, 128]],
      ["blk.0.ffn_up_exps.scale", [2]],
    ]);
    const embed = { role: "embed", tensors: writer.store("embed", await source.weight("embed")).tensors };
    const staged = [embed, { role, tensors }].map((one) => ({ ...one, tensors: one.tensors.map(staging) }));
    const again = await reopened(await finished(writer, staged));
    expect(await again.weight(role)).toEqual(factors);
    expect(again.entries().find((entry) => entry.role === role)?.segments).toHaveLength(1);
  });

  it("NVFP4 with its factors is to llama.cpp, and to packed kernels, what it is here", async () => {
    const source = elsewhere(
      await reopened(
        await tinyModelBytes({ architecture: "llama", embeddingSize: 128, feedForwardSize: 128 }),
      ),
    );
    const packed: Checkpoint = {
      ...source,
      async weight(role, signal) {
        const weight = await source.weight(role, signal);
        if (!role.startsWith("layers.")) return weight;
        const blocks = blocksOf(NVFP4, (weight.out * weight.in) / 64);
        // Scales of 2 to 4.
        for (let at = 0; at < blocks.length; at += NVFP4.bytes) blocks.set([72, 74, 77, 79], at);
        const segments = [{ type: NVFP4, from: 0, to: weight.in, blocks }];
        return { ...weight, segments, rowScale: new Float32Array(weight.out).fill(0.007) };
      },
    };
    const bytes = await written(packed);
    const again = await reopened(bytes);
    expect(again.entries().filter(({ type }) => type === NVFP4)).toHaveLength(14);
    expect(await divergenceFromTheirs(bytes)).toBeLessThan(3e-3);
    const onWasm = await logits(again, wasm());
    const expected = await logits(again);
    const compared = compareProbabilities(softmaxRows(expected, 320), softmaxRows(onWasm, 320), 320);
    expect(Math.abs(compared.meanKl)).toBeLessThan(3e-3);
  });
});

describe("a type that is asked for", () => {
  const numbers = (width: number): LinearWeight => {
    const uniform = random(width);
    const values = Float32Array.from({ length: 4 * width }, () => uniform() - 0.5);
    return {
      out: 4,
      in: width,
      segments: [{ type: F32, from: 0, to: width, blocks: quantizeTo(F32, values) }],
    };
  };
  const typeOf = async (type: string, role: string, weight: LinearWeight, roles?: readonly string[]) => {
    const entries = roles && (() => roles.map((role) => ({ role }) as WeightEntry));
    const writer = await ggufWriter(
      { format: "gguf", metadata: new Map(), config: {} as never, ...(entries && { entries }) },
      { type },
    );
    return writer.store(role, weight).tensors[0]?.dtype;
  };

  it.each([
    ["Q4_0", "layers.0.ffn.up", 64, "Q4_0"],
    ["q5_1", "layers.0.ffn.up", 64, "Q5_1"],
    ["Q4_0", "layers.0.ffn.up", 48, "F16"],
    ["Q4_0", "layers.0.ffn.router", 64, "F32"],
    ["Q4_0", "head", 64, "Q8_0"],
    ["MXFP4", "head", 64, "Q8_0"],
    ["bf16", "head", 64, "BF16"],
    ["TQ2_0", "layers.0.ffn.up", 256, "TQ2_0"],
    ["TQ1_0", "layers.0.ffn.up", 128, "F16"],
    ["TQ1_0", "head", 256, "F16"],
    ["TQ1_0", "embed", 256, "F16"],
  ])("%s makes of %s with %i inputs %s", async (type, role, width, wanted) => {
    expect(await typeOf(type, role, numbers(width), ["embed", "head"])).toBe(wanted);
  });

  it("keeps more of an embedding that is the head, too", async () => {
    expect(await typeOf("Q4_0", "embed", numbers(64), ["embed", "head"])).toBe("Q4_0");
    expect(await typeOf("Q4_0", "embed", numbers(64), ["embed"])).toBe("Q8_0");
    expect(await typeOf("Q4_0", "embed", numbers(64))).toBe("Q8_0");
  });

  it("holds values that fit without rounding them again", async () => {
    const four = numbers(64);
    const blocks = quantizeTo(Q4_0, denseWeight(four));
    const weight = { ...four, segments: [{ type: Q4_0, from: 0, to: 64, blocks }] };
    for (const type of ["Q4_0", "Q5_0", "Q8_0", "F32"]) {
      const writer = await ggufWriter({ format: "gguf", metadata: new Map(), config: {} as never }, { type });
      const kept = writer.store("layers.0.ffn.up", weight);
      expect([type, kept.tensors[0]?.dtype, kept.moved]).toEqual([type, type, type === "Q4_0"]);
      expect(denseWeight(kept.weight as LinearWeight)).toEqual(denseWeight(weight));
    }
  });

  it("names those there are, and what is only read", async () => {
    await expect(typeOf("Q4_K", "head", numbers(256))).rejects.toThrow(
      /Q4_K here: it is only read.*Known are .*Q8_0/,
    );
    await expect(typeOf("Q9", "head", numbers(256))).rejects.toMatchObject({
      code: "bad-argument",
      reason: "type",
    });
  });
});
