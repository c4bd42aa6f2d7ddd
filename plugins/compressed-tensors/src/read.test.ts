import {
  denseWeight,
  e4m3ToFloat,
  e5m2ToFloat,
  type LinearWeight,
  LowbitError,
  type PackedModules,
  type PackedTensor,
  type PlainJson,
  type SafetensorsDtype,
} from "@lowbit/core";
import { reference } from "@lowbit/kernels-reference";
import { wasm } from "@lowbit/kernels-wasm";
import { wordsOf, writeCodes } from "@lowbit/packing";
import {
  describeWithData,
  type GoldenCase,
  goldenArrays,
  goldenCases,
  multiply,
  packedCheckpoint,
  packedFrom,
  testData,
} from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { compressedTensors } from "./index.ts";

const packings = compressedTensors().packings ?? [];

async function open(checkpoint: Parameters<(typeof packings)[number]["open"]>[0]): Promise<PackedModules> {
  const [packing, other] = packings.filter((packing) => packing.detect(checkpoint) > 0.9);
  expect(packing && !other, "one packing is sure").toBe(true);
  return packing!.open(checkpoint);
}

async function openGolden({ files, config }: GoldenCase): Promise<PackedModules> {
  return open(await packedCheckpoint(testData(`golden/${files.packed}`)!, config));
}

/** The golden matrix as [rows, in]. */
function rowsFirst(weight: LinearWeight, w: Float32Array, { format }: GoldenCase): Float32Array {
  // Stacks of experts are stored [experts, out, in], the others [in, out].
  if (format === "mxfp4") return w;
  return Float32Array.from(w, (_, i) => w[(i % weight.in) * weight.out + Math.floor(i / weight.in)]!);
}

/** -0 is as good as 0. */
const plusZero = (values: Float32Array): Float32Array => values.map((value) => value + 0);

/** Of bits per weight in the file; the rest is in the README. */
const extraBits: Readonly<Record<string, number>> = {
  "compressed-tensors-nvfp4": 1.5,
  "fp8-deepseek-block128": 0.25,
};

describeWithData("golden weights", ["golden/manifest.json"], () => {
  const cases = goldenCases("compressed-tensors", "fp8", "mxfp4");

  it("are there", () => expect(cases.length).toBe(14));

  it.each(cases)("$id to the last bit", async (golden) => {
    const modules = await openGolden(golden);
    const described = modules.describe(golden.module)!;
    const weight = await modules.weight(golden.module);
    expect(described).toMatchObject({ out: weight.out, in: weight.in });
    expect(described.segments).toEqual(weight.segments.map(({ type, from, to }) => ({ type, from, to })));
    const want = rowsFirst(weight, (await goldenArrays(golden.files.expect)).get("w")!, golden);
    expect(plusZero(denseWeight(weight))).toEqual(plusZero(want));
    const bits = (bytes: number) => (bytes * 8) / want.length;
    const inMemory = bits(weight.segments.reduce((sum, { blocks }) => sum + blocks.length, 0));
    expect(inMemory).toBeLessThan(bits(described.bytes) + (extraBits[golden.id] ?? 0.1));
  });

  it.each(cases)("$id times inputs, on both backends", async (golden) => {
    const weight = await (await openGolden(golden)).weight(golden.module);
    const arrays = await goldenArrays(golden.files.expect);
    const [x, y] = [arrays.get("x")!, arrays.get("y")!];
    const most = Math.max(...y.map(Math.abs));
    const distance = (values: Float32Array) => Math.max(...values.map((value, i) => Math.abs(value - y[i]!)));
    expect(distance(await multiply(reference(), weight, x))).toBeLessThan(1e-6 * most);
    // Inputs are rounded to 8 bits for each 32 columns there.
    expect(distance(await multiply(wasm(), weight, x))).toBeLessThan(0.02 * most);
  });

  it("8-bit floats as in the table", async () => {
    const table = await goldenArrays("fp8/e4m3fn-table.expect.safetensors");
    const codes = Array.from({ length: 256 }, (_, code) => code);
    expect(codes.map(e4m3ToFloat)).toEqual([...table.get("e4m3fn")!]);
    expect(codes.map(e5m2ToFloat)).toEqual([...table.get("e5m2")!]);
  });
});

const size: Partial<Record<SafetensorsDtype, number>> = { F32: 4, I32: 4, BF16: 2, F16: 2, I64: 8 };

function tensor(
  name: string,
  dtype: SafetensorsDtype,
  shape: number[],
  data?: ArrayBufferView,
): PackedTensor {
  const bytes = shape.reduce((a, b) => a * b, 1) * (size[dtype] ?? 1);
  return {
    name,
    dtype,
    shape,
    data: data ? new Uint8Array(data.buffer as ArrayBuffer) : new Uint8Array(bytes),
  };
}

function compressed(weights: PlainJson, more: { readonly [key: string]: PlainJson } = {}): PlainJson {
  const config_groups = { group_0: { targets: ["Linear"], weights } };
  return { quant_method: "compressed-tensors", format: "pack-quantized", config_groups, ...more };
}

const four = { num_bits: 4, type: "int", symmetric: true, strategy: "group", group_size: 32 };

describe("pack-quantized", () => {
  /** Rows of codes 0, 1, 2 … and scales of 1, so that weights are codes − 2^(b−1). */
  function tensors(bits: number, columns: number, oldPacking: boolean): PackedTensor[] {
    const rows = 2;
    const each = Math.floor(32 / bits);
    const width = oldPacking ? Math.ceil(columns / each) : wordsOf(columns, bits);
    const words = new Uint32Array(rows * width);
    for (let n = 0; n < rows; n++) {
      const codes = Uint8Array.from({ length: columns }, (_, k) => (k + n) % 2 ** bits);
      if (!oldPacking) writeCodes(words, { bits, at: n * width }, codes);
      else
        for (const [k, code] of codes.entries())
          words[n * width + Math.floor(k / each)]! |= code << (bits * (k % each));
    }
    return [
      tensor("m.weight_packed", "I32", [rows, width], words),
      tensor("m.weight_scale", "F32", [rows, 1], Float32Array.of(1, 1)),
      tensor("m.weight_shape", "I64", [2], BigInt64Array.of(2n, BigInt(columns))),
    ];
  }

  it.each([2, 3, 4, 5, 6, 7, 8])(
    "of %i bits in either packing, and widths that fill no word",
    async (bits) => {
      const config = compressed({ num_bits: bits, type: "int", symmetric: true, strategy: "channel" });
      for (const [columns, oldPacking] of [
        [331, false],
        [331, true],
        [256, false],
        [1, false],
      ] as const) {
        const modules = await open(packedFrom(tensors(bits, columns, oldPacking), config));
        const want = Array.from({ length: 2 * columns }, (_, i) => {
          const code = ((i % columns) + Math.floor(i / columns)) % 2 ** bits;
          return code - 2 ** (bits - 1);
        });
        expect([...denseWeight(await modules.weight("m"))]).toEqual(want);
      }
    },
  );

  it("refuses sizes at which the packings cannot be told apart", async () => {
    const config = compressed({ num_bits: 3, type: "int", symmetric: true, strategy: "channel" });
    await expect(open(packedFrom(tensors(3, 15, false), config))).rejects.toMatchObject({
      reason: "unsupported-variant",
    });
  });

  it("sorts columns by group, and reads zero points of either dtype", async () => {
    const config = compressed({ ...four, symmetric: false, actorder: "group" });
    const index = Int32Array.from({ length: 64 }, (_, k) => (k % 2 === 0 ? 1 : 0));
    const common = [
      tensor("m.weight_packed", "I32", [1, 8], new Uint32Array(8).fill(0x76543210)),
      tensor("m.weight_scale", "F32", [1, 2], Float32Array.of(1, 100)),
      tensor("m.weight_g_idx", "I32", [64], index),
    ];
    const want = Array.from({ length: 64 }, (_, k) => (k % 2 === 0 ? 100 * ((k % 8) - 6) : (k % 8) - 11));
    for (const zeros of [
      tensor("m.weight_zero_point", "I32", [1, 2], Uint32Array.of(11, 6)),
      tensor("m.weight_zero_point", "I8", [1, 2], Int8Array.of(3, -2)),
    ]) {
      const weight = await (await open(packedFrom([...common, zeros], config))).weight("m");
      expect([...weight.permute!].slice(0, 3)).toEqual([1, 3, 5]);
      expect([...denseWeight(weight)]).toEqual(want);
    }
    const lost = Int32Array.from(index, (g, k) => (k === 3 ? 1 : g));
    const zeros = tensor("m.weight_zero_point", "I32", [1, 2]);
    for (const bad of [lost, lost.map(() => 2), lost.map(() => -2)]) {
      const modules = await open(
        packedFrom([...common.slice(0, 2), zeros, tensor("m.weight_g_idx", "I32", [64], bad)], config),
      );
      await expect(modules.weight("m")).rejects.toMatchObject({ reason: "invalid-index" });
    }
  });
});

describe("configuration", () => {
  const bytes = [
    tensor("a.q_proj.weight", "I8", [2, 4], Int8Array.of(1, 2, 3, 4, 5, 6, 7, -8)),
    tensor("a.q_proj.weight_scale", "F32", [2, 1], Float32Array.of(1, 2)),
    tensor("a.q_proj.bias", "BF16", [2]),
    tensor("a.q_proj.input_scale", "F32", [1]),
  ];
  const eight = { num_bits: 8, type: "int", symmetric: true, strategy: "channel" };
  const group = (targets: string[], weights: PlainJson, format?: string) => ({
    targets,
    weights,
    ...(format !== undefined && { format }),
  });
  const withGroups = (config_groups: object, more = {}): PlainJson => ({
    quant_method: "compressed-tensors",
    config_groups: config_groups as PlainJson,
    ...more,
  });

  it("gives a module the group that names it, before patterns and classes", async () => {
    const wrong = { ...eight, strategy: "group", group_size: 3 };
    for (const groups of [
      { a: group(["Linear"], wrong), b: group(["a.q_proj"], eight) },
      { a: group(["Linear"], wrong), b: group(["re:.*[qk]_proj$"], eight) },
      { a: group(["re:.*"], wrong), b: group(["a.q_proj"], eight) },
      { a: group(["re:q_proj", "Embedding"], wrong), b: group(["Linear"], eight, "int-quantized") },
      { a: group(["LlamaAttention"], eight) },
    ]) {
      const modules = await open(packedFrom(bytes, withGroups(groups, { format: "mixed-precision" })));
      const weight = await modules.weight("a.q_proj");
      expect([...denseWeight(weight)]).toEqual([1, 2, 3, 4, 10, 12, 14, -16]);
      expect(weight.bias).toEqual(new Float32Array(2));
      expect(modules.describe("a.q_proj")?.tensors.length).toBe(4);
    }
  });

  it("says what it read differently", async () => {
    const config = withGroups(
      { a: group(["Linear"], eight) },
      { ignore: ["re:.*q_proj", "lm_head"], kv_cache_scheme: { num_bits: 8 }, version: "0.9.1" },
    );
    const { metadata } = await open(packedFrom(bytes, config));
    expect(metadata.get("packed though on the list of ignored modules")).toBe(1);
    expect(metadata.get("cache")).toMatch(/declared as quantized/);
  });

  it.each<[string, PlainJson]>([
    ["invalid-config", { quant_method: "compressed-tensors" }],
    ["invalid-config", withGroups({ a: group(["re:k_proj"], eight) })],
    ["invalid-config", withGroups({ a: group(["re:(a"], eight) })],
    ["invalid-config", withGroups({ a: group(["Linear"], { ...eight, num_bits: "8" }) })],
    ["invalid-config", withGroups({ a: group(["Linear"], { ...eight, strategy: "token" }) })],
    ["invalid-config", withGroups({ a: group(["Linear"], { ...eight, group_size: 0 }) })],
    [
      "invalid-config",
      withGroups({ a: group(["Linear"], { ...eight, type: "float" }) }, { format: "int-quantized" }),
    ],
    ["invalid-config", withGroups({ a: group(["Linear"], eight) }, { format: "pack-quantized" })],
    ["shape-mismatch", withGroups({ a: group(["Linear"], { ...eight, strategy: "tensor" }) })],
    ["shape-mismatch", withGroups({ a: group(["Linear"], { ...eight, strategy: "group", group_size: 2 }) })],
    ["missing-tensor", withGroups({ a: group(["Linear"], { ...eight, symmetric: false }) })],
    ["unsupported-bits", withGroups({ a: group(["Linear"], { ...eight, num_bits: 16 }) })],
    ["unsupported-type", withGroups({ a: group(["Linear"], { ...eight, type: "float" }) })],
    ["unsupported-variant", withGroups({ a: group(["Linear"], eight) }, { format: "marlin-24" })],
    ["unsupported-variant", withGroups({ a: group(["Linear"], eight) }, { format: "sparse-24-bitmask" })],
    [
      "unsupported-variant",
      withGroups({ a: group(["Linear"], eight) }, { sparsity_config: { format: "sparse-bitmask" } }),
    ],
    [
      "unsupported-variant",
      withGroups({ a: group(["Linear"], eight) }, { transform_config: { config_groups: { R4: {} } } }),
    ],
  ])("%s: %j", async (reason, config) => {
    const error: unknown = await open(packedFrom(bytes, config)).catch((error: unknown) => error);
    expect(LowbitError.is(error) && error.reason).toBe(reason);
  });
});

describe("floats", () => {
  const fp8 = (fill: number, scale: PackedTensor) => [
    tensor("m.weight", "F8_E4M3", [3, 40], new Uint8Array(120).fill(fill)),
    { ...scale, name: `m.${scale.name}` },
  ];

  it("in blocks with short edges", async () => {
    const scale = tensor("weight_scale_inv", "F32", [2, 2], Float32Array.of(1, 2, 3, 4));
    const config = { quant_method: "fp8", weight_block_size: [2, 32] };
    const weight = await (await open(packedFrom(fp8(0x38, scale), config))).weight("m");
    const row = (a: number, b: number) => [...Array(32).fill(a), ...Array(8).fill(b)];
    expect([...denseWeight(weight)]).toEqual([...row(1, 2), ...row(1, 2), ...row(3, 4)]);
    expect(weight.segments.map(({ type }) => type.block)).toEqual([32, 8]);
  });

  it("as one tensor, under every name of the scale", async () => {
    for (const name of ["weight_scale", "weight_scale_inv", "qscale_weight"]) {
      const tensors = fp8(0xb8, tensor(name, "BF16", [], Uint16Array.of(0x4040)));
      const weight = await (await open(packedFrom(tensors, { quant_method: "fp8" }))).weight("m");
      expect(new Set(denseWeight(weight))).toEqual(new Set([-3]));
    }
  });

  it("mxfp8", async () => {
    const scale = tensor("weight_scale", "U8", [3, 2], Uint8Array.of(127, 128, 126, 127, 0, 254));
    const weights = { num_bits: 8, type: "float", strategy: "group", group_size: 32 };
    const config = compressed(weights, { format: "mxfp8-quantized" });
    const values = denseWeight(await (await open(packedFrom(fp8(0x38, scale), config))).weight("m"));
    expect([0, 32, 40, 72, 80, 112].map((i) => values[i])).toEqual([1, 2, 0.5, 1, 2 ** -127, 2 ** 127]);
  });

  it("under the original names of gpt-oss", async () => {
    const tensors = [
      tensor("block.0.mlp.mlp1_weight.blocks", "U8", [2, 3, 2, 16], new Uint8Array(192).fill(0x2a)),
      tensor("block.0.mlp.mlp1_weight.scales", "U8", [2, 3, 2], new Uint8Array(12).fill(128)),
      tensor("block.0.mlp.mlp1_bias", "BF16", [2, 3], new Uint16Array(6).fill(0x3f80)),
    ];
    const weight = await (await open(packedFrom(tensors, { quant_method: "mxfp4" }))).weight(
      "block.0.mlp.mlp1_weight",
    );
    expect(weight).toMatchObject({ out: 3, in: 64, experts: 2, bias: new Float32Array(6).fill(1) });
    expect([...denseWeight(weight).subarray(0, 3)]).toEqual([-2, 2, -2]);
  });

  const one = tensor("weight_scale", "F32", [1], Float32Array.of(1));
  it.each<[string, PackedTensor[], PlainJson]>([
    ["non-finite-value", fp8(0x7f, one), {}],
    ["non-finite-value", fp8(0xff, one), {}],
    ["non-finite-scale", fp8(0, tensor("weight_scale", "F32", [1], Float32Array.of(Number.NaN))), {}],
    ["shape-mismatch", fp8(0, tensor("weight_scale", "F32", [2])), {}],
    ["shape-mismatch", fp8(0, tensor("weight_scale_inv", "F32", [2, 2])), { weight_block_size: [128, 128] }],
    ["invalid-config", fp8(0, one), { weight_block_size: [128] }],
    ["invalid-config", fp8(0, one), { weight_block_size: [0, 1] }],
    ["invalid-config", fp8(0, one), { fmt: "e5m2" }],
    ["unsupported-type", [tensor("m.weight", "F16", [2, 2]), tensor("m.weight_scale", "F32", [1])], {}],
    ["missing-tensor", [tensor("m.weight_scale", "F32", [1])], {}],
  ])("%s", async (reason, tensors, config) => {
    const read = async () =>
      (await open(packedFrom(tensors, { quant_method: "fp8", ...(config as object) }))).weight("m");
    await expect(read()).rejects.toMatchObject({ reason });
  });

  it("of ModelOpt, as declared in either file", async () => {
    const nv = [
      tensor("m.weight", "U8", [1, 8], new Uint8Array(8).fill(0x99)),
      tensor("m.weight_scale", "F8_E4M3", [1, 1], Uint8Array.of(0x38)),
      tensor("m.weight_scale_2", "F32", [], Float32Array.of(3)),
    ];
    const file = (quant_algo: string) => ({
      producer: { name: "modelopt" },
      quantization: { quant_algo, kv_cache_quant_algo: "FP8" },
    });
    const modules = await open(packedFrom(nv, file("NVFP4")));
    expect([...denseWeight(await modules.weight("m"))]).toEqual(Array(16).fill(-1.5));
    const refused: [string, PackedTensor[], PlainJson][] = [
      ["invalid-config", nv, file("FP8")],
      ["unsupported-variant", nv, file("W4A8_AWQ")],
      ["unsupported-variant", [...nv, tensor("m.pre_quant_scale", "F16", [16])], file("NVFP4")],
    ];
    for (const [reason, tensors, config] of refused) {
      await expect(open(packedFrom(tensors, config))).rejects.toMatchObject({ reason });
    }
    for (const [part, data] of [
      ["weight_scale", Uint8Array.of(0x7f)],
      ["weight_scale_2", Float32Array.of(0)],
    ] as const) {
      const bad = nv.map((own) =>
        own.name === `m.${part}` ? tensor(own.name, own.dtype, [...own.shape], data) : own,
      );
      const read = async () => (await open(packedFrom(bad, file("NVFP4")))).weight("m");
      await expect(read()).rejects.toMatchObject({ reason: "non-finite-scale" });
    }
  });
});
