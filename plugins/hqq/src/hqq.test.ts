import {
  denseWeight,
  type LinearWeight,
  LowbitError,
  type PackedTensor,
  type PackingOptions,
  type PlainJson,
  type SafetensorsDtype,
  safetensorsBits,
} from "@lowbit/core";
import { reference } from "@lowbit/kernels-reference";
import { wasm } from "@lowbit/kernels-wasm";
import { buildGrid } from "@lowbit/packing";
import {
  describeWithData,
  fuzzCases,
  type GoldenCase,
  goldenArrays,
  goldenCases,
  multiply,
  mutate,
  packedCheckpoint,
  packedFrom,
  packedTensors,
  random,
  seedFor,
  testData,
} from "@lowbit/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { hqqPacking as packing } from "./index.ts";

const numbers = (count: number, seed: number): Float32Array => {
  const next = random(seed);
  return Float32Array.from({ length: count }, () => (next() - 0.5) ** 3);
};

describeWithData("golden weights", ["golden/manifest.json"], () => {
  const cases = goldenCases("hqq");
  const open = async ({ files, config }: GoldenCase) => {
    const checkpoint = await packedCheckpoint(testData(`golden/${files.packed}`)!, config);
    expect(packing.detect(checkpoint)).toBe(1);
    return { checkpoint, modules: await packing.open(checkpoint) };
  };

  it("are there", () => expect(cases.length).toBe(10));

  it.each(cases)("$id to the last bit", async (golden) => {
    const { modules } = await open(golden);
    const weight = await modules.weight(golden.module);
    const described = modules.describe(golden.module)!;
    expect(described).toMatchObject({ out: weight.out, in: weight.in });
    expect(described.segments).toEqual(weight.segments.map(({ type, from, to }) => ({ type, from, to })));
    const w = (await goldenArrays(golden.files.expect)).get("w")!;
    const want = w.map((_, i) => w[(i % weight.in) * weight.out + Math.floor(i / weight.in)]!);
    expect(denseWeight(weight)).toEqual(want);
    const bits = (weight.segments[0]!.blocks.length * 8) / w.length;
    // Groups across rows have no packed form.
    if (golden.id.endsWith("axis0")) expect(bits).toBe(32);
    else expect(bits).toBeLessThan((described.bytes * 8) / w.length + 0.01);
  });

  it.each(cases)("$id times inputs, on both backends", async (golden) => {
    const weight = await (await open(golden)).modules.weight(golden.module);
    const arrays = await goldenArrays(golden.files.expect);
    const [x, y] = [arrays.get("x")!, arrays.get("y")!];
    const most = Math.max(...y.map(Math.abs));
    const distance = (values: Float32Array) => Math.max(...values.map((value, i) => Math.abs(value - y[i]!)));
    expect(distance(await multiply(reference(), weight, x))).toBeLessThan(1e-6 * most);
    // Inputs are rounded to 8 bits for each 32 columns there.
    expect(distance(await multiply(wasm(), weight, x))).toBeLessThan(0.02 * most);
  });

  it.each(cases.filter(({ id }) => id.endsWith("axis1")))("$id come back byte for byte", async (golden) => {
    const { checkpoint, modules } = await open(golden);
    const weight = await modules.weight(golden.module);
    const writer = packing.writer!({});
    expect(writer.hold(weight)).toBe(weight);
    const written = writer.pack(golden.module, weight);
    for (const tensor of await packedTensors(checkpoint)) {
      const own = written.find(({ name }) => name === tensor.name)!;
      expect({ ...own, data: Uint8Array.from(own.data) }).toEqual(tensor);
    }
  });
});

/** What a reader makes of a written weight, by the configuration that its writer makes. */
async function readBack(weight: LinearWeight, options: PackingOptions = {}): Promise<LinearWeight> {
  const writer = packing.writer!(options);
  const description = { role: "layers.0.attn.q", types: [], ...writer.describe!(weight) };
  const { quantization } = writer.configuration(new Map([["m", description]]), ["lm_head"]);
  const tensors = writer.pack("m", weight);
  const modules = await packing.open(packedFrom(tensors, quantization));
  // Each tensor is the module's, once.
  expect([...modules.describe("m")!.tensors].sort()).toEqual(tensors.map(({ name }) => name).sort());
  return modules.weight("m");
}

describe("writer", () => {
  const shape = { out: 20, in: 128, role: "layers.0.attn.q" };

  it.each([8, 6, 5, 4, 3, 2, 1])("of %i bits: within half a step, and read back", async (bits) => {
    for (const groupSize of [64, -1, 32]) {
      const values = numbers(20 * 128, bits);
      // Zeros, and a row of one large value.
      values.fill(0, 0, 128).fill(7, 128, 256);
      const options = { bits, groupSize };
      const weight = packing.writer!(options).quantize(values, shape);
      // Ten parts need no filling up in rows; four and eight parts must divide the groups.
      if (!weight) {
        expect(((20 * 128) / (groupSize === -1 ? 128 : groupSize)) % (bits === 1 ? 8 : 4)).not.toBe(0);
        continue;
      }
      const dense = denseWeight(weight);
      for (const [i, value] of values.entries()) {
        expect(Math.abs(dense[i]! - value)).toBeLessThan(
          0.126 / (2 ** bits - 1) + 2 ** -10 * Math.max(1, Math.abs(value)),
        );
      }
      expect(packing.writer!(options).hold(weight)).toBe(weight);
      expect(await readBack({ ...weight, bias: numbers(20, 1) }, options)).toEqual({
        ...weight,
        bias: numbers(20, 1),
      });
    }
  });

  it("takes f32 where halves are too short", async () => {
    const values = numbers(20 * 128, 1).map((value) => value * 1e9);
    const weight = packing.writer!({ bits: 8 }).quantize(values, shape)!;
    expect(weight.segments[0]!.type.name).toContain("f32");
    expect(await readBack(weight)).toEqual(weight);
  });

  it("holds integer grids with every value", async () => {
    const grids = fc.record({
      bits: fc.constantFrom(1, 2, 3, 4, 5, 6, 8),
      scale: fc.constantFrom("f16", "bf16", "f32" as const),
      integer: fc.boolean(),
      seed: fc.integer(),
    });
    const check = fc.asyncProperty(grids, async ({ bits, scale, integer, seed }) => {
      const next = random(seed);
      const below = (limit: number) => Math.floor(next() * limit);
      const builder = buildGrid(16, 96, {
        bits,
        group: 32,
        scale,
        zero: integer ? "integer" : 2 ** (bits - 1),
      });
      for (let n = 0; n < 16; n++) {
        const codes = Uint8Array.from({ length: 96 }, () => below(2 ** bits));
        const scales = Array.from({ length: 3 }, () => (scale === "f32" ? 0x3c000000 : 0x3c00) + below(256));
        builder.row(n, codes, scales, [below(2 ** bits), below(2 ** bits), 0]);
      }
      const weight = { out: 16, in: 96, segments: builder.segments };
      const held = packing.writer!({}).hold(weight)!;
      expect(denseWeight(held)).toEqual(denseWeight(weight));
      expect(await readBack(held)).toEqual(held);
    });
    await fc.assert(check, { seed: 4, numRuns: 40 });
  });

  it("leaves what it cannot hold", () => {
    const builder = buildGrid(16, 96, { bits: 4, group: 32, scale: "f16", zero: 8 });
    const weight = { out: 16, in: 96, segments: builder.segments };
    const { hold } = packing.writer!({});
    expect(hold(weight)).toBeDefined();
    expect(hold({ ...weight, rowScale: new Float32Array(16) })).toBeUndefined();
    expect(hold({ ...weight, permute: new Int32Array(96) })).toBeUndefined();
    expect(packing.writer!({ bits: 8 }).hold(weight)).toBeUndefined();
    expect(packing.writer!({ groupSize: 64 }).hold(weight)).toBeUndefined();
    for (const bad of [
      { bits: 7, scale: "f16", group: 32 },
      { bits: 4, scale: "f16", group: 36 },
      { bits: 4, scale: "none", group: 32 },
    ] as const) {
      const grid = buildGrid(16, 96, { ...bad, zero: 8 });
      expect(hold({ ...weight, segments: grid.segments })).toBeUndefined();
    }
    expect(
      packing.writer!({}).quantize(new Float32Array(128), { out: 1, in: 128, role: "head" }),
    ).toBeUndefined();
  });

  it.each<PackingOptions>([
    { bits: 7 },
    { bits: 1.58 },
    { groupSize: 0 },
    { symmetric: true },
    { variant: "axis0" },
  ])("has no options %j", (options) => {
    expect(() => packing.writer!(options)).toThrow(expect.objectContaining({ code: "bad-argument" }));
  });

  it("configures modules one by one where they differ", () => {
    const one = (nbits: number, group_size: number) => ({ role: "r", types: [], nbits, group_size });
    const modules = new Map([
      ["a.q", one(4, 64)],
      ["a.k", one(8, 32)],
    ]);
    const { quantization } = packing.writer!({}).configuration(modules, ["lm_head", "model.norm"]);
    expect(quantization).toMatchObject({
      skip_modules: ["lm_head"],
      quant_config: {
        "a.q": { weight_quant_params: { nbits: 4 } },
        "a.k": { weight_quant_params: { nbits: 8, group_size: 32 } },
      },
    });
  });
});

function tensor(
  name: string,
  dtype: SafetensorsDtype,
  shape: number[],
  data?: ArrayBufferView,
): PackedTensor {
  const bytes = (shape.reduce((a, b) => a * b, 1) * safetensorsBits[dtype]) / 8;
  return {
    name,
    dtype,
    shape,
    data: data ? new Uint8Array(data.buffer as ArrayBuffer) : new Uint8Array(bytes),
  };
}

const config = (weights: PlainJson, more: object = {}): PlainJson => ({
  quant_method: "hqq",
  quant_config: { weight_quant_params: weights, ...more },
});

describe("reader", () => {
  const eight = { nbits: 8, group_size: 4, axis: 1, shape: [2, 6] };
  const codes = Uint8Array.from({ length: 12 }, (_, i) => i);
  const tensors = [
    tensor("m.W_q", "U8", [3, 4], codes),
    tensor("m.scale", "F32", [3, 1], Float32Array.of(1, 10, 100)),
    tensor("m.zero", "F32", [3, 1], Float32Array.of(0.5, 0, 1)),
  ];
  const want = [-0.5, 0.5, 1.5, 2.5, 40, 50, 60, 70, 700, 800, 900, 1000];
  const read = async (tensors: readonly PackedTensor[], config: PlainJson) =>
    denseWeight(await (await packing.open(packedFrom(tensors, config))).weight("m"));

  it("lets groups go on in the next row", async () => {
    expect([...(await read(tensors, config(eight)))]).toEqual(want);
  });

  it("takes settings from tensors, and from the configuration of a kind of module", async () => {
    const letters = new TextEncoder().encode("8bit_u8");
    const own = [
      tensor("m.nbits", "I32", [], Int32Array.of(8)),
      tensor("m.group_size", "I32", [], Int32Array.of(4)),
      tensor("m.axis", "U8", [], Uint8Array.of(1)),
      tensor("m.shape", "I64", [2], BigInt64Array.of(2n, 6n)),
      tensor("m.packing", "U8", [7], letters),
    ];
    expect([...(await read([...tensors, ...own], { quant_method: "hqq" }))]).toEqual(want);
    const byKind = { quant_config: { "self_attn.q": { weight_quant_params: eight } } };
    const renamed = tensors.map((part) => ({ ...part, name: part.name.replace("m.", "l.0.self_attn.q.") }));
    const modules = await packing.open(packedFrom(renamed, byKind));
    expect([...denseWeight(await modules.weight("l.0.self_attn.q"))]).toEqual(want);
    const conflict = config({ ...eight, nbits: 4 });
    await expect(read([...tensors, ...own], conflict)).rejects.toMatchObject({ reason: "invalid-config" });
  });

  it("reads codes that are viewed as floats, and one scale for all", async () => {
    const viewed = [
      tensor("m.W_q", "F16", [3, 2], codes),
      tensor("m.scale", "F16", [1], Uint16Array.of(0x3c00)),
      tensor("m.zero", "BF16", [], Uint16Array.of(0)),
    ];
    expect([...(await read(viewed, config({ ...eight, view_as_float: true })))]).toEqual([...codes]);
    await expect(read(viewed, config(eight))).rejects.toMatchObject({ reason: "unsupported-type" });
  });

  it("reads three levels of 1.58 bits, and whole rows and columns as groups", async () => {
    const packed = [
      tensor("m.W_q", "U8", [1, 3], Uint8Array.of(0b00011000, 0b01100001, 0b10000110)),
      tensor("m.scale", "F32", [4, 1], Float32Array.of(1, 2, 3, 4)),
      tensor("m.zero", "F32", [1], Float32Array.of(1)),
    ];
    const ternary = { nbits: 1.58, group_size: null, axis: 1, shape: [4, 3] };
    expect([...(await read(packed, config(ternary)))]).toEqual([-1, 0, 1, 0, 2, -2, 3, -3, 0, -4, 0, 4]);
    const columns = [packed[0]!, tensor("m.scale", "F32", [1, 3], Float32Array.of(1, 2, 3)), packed[2]!];
    expect([...(await read(columns, config({ ...ternary, axis: 0 })))]).toEqual([
      -1, 0, 3, 0, 2, -3, 1, -2, 0, -1, 0, 3,
    ]);
  });

  it("reads scales that are packed themselves", async () => {
    const nested = [
      tensors[0]!,
      tensor("m.scale_q", "U8", [3, 1], Uint8Array.of(1, 10, 100)),
      tensor("m.meta_scale.scale", "F16", [1, 1], Uint16Array.of(0x4000)),
      tensor("m.meta_scale.zero", "F16", [1, 1], Uint16Array.of(0)),
      tensors[2]!,
    ];
    const params = { scale_quant_params: { nbits: 8, group_size: 3, axis: 0 } };
    expect([...(await read(nested, config(eight, params)))]).toEqual(want.map((value) => 2 * value));
  });

  const without = (name: string) => tensors.filter((part) => part.name !== `m.${name}`);
  it.each<[string, readonly PackedTensor[], PlainJson]>([
    ["missing-tensor", without("scale"), config(eight)],
    ["missing-tensor", tensors, config({ nbits: 8, group_size: 4, axis: 1 })],
    ["unsupported-bits", tensors, config({ ...eight, nbits: 9 })],
    ["invalid-config", tensors, config({ ...eight, nbits: "8" })],
    ["invalid-config", tensors, config({ ...eight, axis: 2 })],
    ["invalid-config", tensors, config({ ...eight, group_size: -4 })],
    ["invalid-config", tensors, config({ ...eight, packing: "4bit_u8" })],
    ["unsupported-variant", tensors, config({ ...eight, packing: "constructor" })],
    ["shape-mismatch", tensors, config({ ...eight, group_size: 5 })],
    ["shape-mismatch", tensors, config({ ...eight, group_size: 3 })],
    ["shape-mismatch", tensors, config({ ...eight, nbits: 4 })],
    ["invalid-shape", tensors, config({ ...eight, shape: [2 ** 40, 2 ** 40] })],
    ["invalid-shape", tensors, config({ ...eight, shape: [2, -6] })],
    ["invalid-value", tensors, config({ ...eight, nbits: 3, packing: "8bit_u8" })],
    [
      "non-finite-scale",
      [...without("zero"), tensor("m.zero", "F16", [3], Uint16Array.of(0, 0x7c00, 0))],
      config(eight),
    ],
    ["shape-mismatch", [...tensors, tensor("m.bias", "F16", [3])], config(eight)],
    ["shape-mismatch", [...tensors, tensor("m.nbits", "I32", [2])], config(eight)],
    ["shape-mismatch", [...tensors, tensor("m.nbits", "I32", [2000])], config(eight)],
    ["unsupported-type", [...tensors, tensor("m.nbits", "F16", [])], config(eight)],
  ])("refuses: %s", async (reason, tensors, config) => {
    const error: unknown = await read(tensors, config).catch((error: unknown) => error);
    expect(LowbitError.is(error) ? error.reason : error).toBe(reason);
  });
});

/** With as many bytes as its dtype and shape take, which the container guarantees; none where that is absurd. */
function fitted(tensor: PackedTensor): PackedTensor[] {
  const bytes = (tensor.shape.reduce((a, b) => a * b, 1) * safetensorsBits[tensor.dtype]) / 8;
  if (bytes > 1e6) return [];
  const data = new Uint8Array(bytes);
  data.set(tensor.data.subarray(0, bytes));
  return [{ ...tensor, data }];
}

describe("damage", () => {
  it.each([3, 4, 6])("of files of %i bits ends in an error or a weight, soon", async (bits) => {
    const writer = packing.writer!({ bits });
    const weight = writer.quantize(numbers(16 * 128, 1), { out: 16, in: 128, role: "x" })!;
    const description = { role: "x", types: [], ...writer.describe!(weight) };
    const { quantization } = writer.configuration(new Map([["m", description]]), []);
    const whole = writer.pack("m", weight);
    const next = random(seedFor("hqq", bits));
    const below = (limit: number) => Math.floor(next() * limit);
    for (let run = 0; run < fuzzCases(200); run++) {
      const damaged = whole.map((tensor) => ({ ...tensor }));
      // Settings of a module are tensors, too; the first three are data.
      const victim = damaged[below(10)]!;
      const kind = below(3);
      if (kind === 0) victim.data = mutate(victim.data, next);
      else if (kind === 1)
        Object.assign(victim, { shape: [[1], [0], [2, 3], [2 ** 40], [16, 64], []][below(6)] });
      else Object.assign(victim, { dtype: (["U8", "I32", "F16", "F32", "I64"] as const)[below(5)] });
      const kept = damaged.filter(() => below(20) > 0).flatMap(fitted);
      const start = performance.now();
      try {
        const modules = await packing.open(
          packedFrom(kept, below(2) === 0 ? quantization : { quant_method: "hqq" }),
        );
        if (modules.describe("m")) await modules.weight("m");
      } catch (error) {
        if (!LowbitError.is(error)) throw error;
        expect(error.reason, error.message).toBeDefined();
      }
      expect(performance.now() - start).toBeLessThan(1000);
    }
  });
});
