import {
  denseWeight,
  floatToHalf,
  halfToFloat,
  LowbitError,
  type PackedModules,
  type PackedTensor,
  type PlainJson,
} from "@lowbit/core";
import { writeCodes } from "@lowbit/packing";
import { fuzzCases, mutate, packedFrom, random } from "@lowbit/testing";
import { describe, expect, it, test } from "vitest";
import { gptqPacking as packing } from "./index.ts";

const module = "model.layers.0.mlp.up_proj";
const shape = { out: 32, in: 96, role: "layers.0.ffn.up" };
const values = Float32Array.from({ length: 32 * 96 }, (_, i) => Math.sin(i * i) / 3);

type Tensors = Map<string, PackedTensor>;
type Config = { [key: string]: PlainJson };

/** The tensors of a small weight by suffix, and the configuration that goes with them. */
function packed(options: Parameters<typeof packing.writer>[0] = {}): {
  tensors: Tensors;
  config: Config;
} {
  const writer = packing.writer({ groupSize: 32, ...options });
  const weight = writer.quantize(values, shape)!;
  const tensors = writer.pack(module, weight);
  const described = new Map([[module, { role: shape.role, types: [], ...writer.describe!(weight) }]]);
  return {
    tensors: new Map(tensors.map((tensor) => [tensor.name.slice(module.length + 1), tensor])),
    config: { ...writer.configuration(described, []).quantization },
  };
}

function open(tensors: Tensors, config: PlainJson | undefined): Promise<PackedModules> {
  return packing.open(packedFrom([...tensors.values()], config));
}

async function dense(tensors: Tensors, config: Config): Promise<Float32Array> {
  return denseWeight(await (await open(tensors, config)).weight(module));
}

async function reasonOf(tensors: Tensors, config: PlainJson | undefined): Promise<string | undefined> {
  try {
    await (await open(tensors, config)).weight(module);
    return "read";
  } catch (error) {
    if (!LowbitError.is(error)) throw error;
    return error.reason;
  }
}

/** The same tensors with parts of one changed; undefined removes it. */
function changed(tensors: Tensors, suffix: string, change: Partial<PackedTensor> | undefined): Tensors {
  const copy = new Map(tensors);
  copy.delete(suffix);
  if (change) copy.set(suffix, { ...tensors.get(suffix)!, ...change });
  return copy;
}

function words(count: number, bits: number, code: (i: number) => number): Uint8Array {
  const packed = new Uint32Array((count * bits) / 32);
  writeCodes(
    packed,
    { bits },
    Uint8Array.from({ length: count }, (_, i) => code(i)),
  );
  return new Uint8Array(packed.buffer);
}

const index = (group: (k: number) => number): Partial<PackedTensor> => ({
  data: new Uint8Array(Int32Array.from({ length: 96 }, (_, k) => group(k)).buffer),
});

describe("zero points", () => {
  it("are told apart by what symmetric files store, whatever they declare", async () => {
    for (const bits of [2, 3, 4, 8]) {
      for (const [variant, wrong, text] of [
        ["gptq", "gptq_v2", "stored minus one (v1), although declared v2"],
        ["gptq_v2", "gptq", "stored as they are (v2), although declared v1"],
      ] as const) {
        const { tensors, config } = packed({ bits, variant });
        const lying = { ...config, checkpoint_format: wrong };
        expect(await dense(tensors, lying)).toEqual(await dense(tensors, config));
        expect((await open(tensors, lying)).metadata.get("zero points")).toBe(text);
        const { checkpoint_format: _, ...silent } = config;
        expect(await dense(tensors, silent)).toEqual(await dense(tensors, config));
      }
    }
  });

  it("that are not symmetric are as declared", async () => {
    const { tensors, config } = packed({ symmetric: false, variant: "gptq" });
    const one = changed(tensors, "qzeros", { data: words(3 * 32, 4, () => 8) });
    const first = await dense(one, { ...config, sym: false });
    const second = await dense(one, { ...config, sym: false, checkpoint_format: "gptq_v2" });
    expect(first).not.toEqual(second);
  });

  it("that differ in a symmetric file are kept, and named", async () => {
    const { tensors, config } = packed({ symmetric: false, variant: "gptq_v2" });
    const expected = await dense(tensors, config);
    expect(config.sym).toBe(false);
    const modules = await open(tensors, { ...config, sym: true });
    const weight = await modules.weight(module);
    expect(denseWeight(weight)).toEqual(expected);
    expect(modules.describe(module)!.segments[0]!.type).toBe(weight.segments[0]!.type);
    expect(modules.metadata.get("zero points")).toMatch(/although declared symmetric/);
  });

  it("of both versions in one checkpoint are refused, found at once or later", async () => {
    const { tensors, config } = packed({});
    const of = (count: number, odd: number): Tensors => {
      const all: Tensors = new Map();
      for (let layer = 0; layer < count; layer++) {
        for (const [suffix, tensor] of tensors) {
          const data = suffix === "qzeros" && layer === odd ? words(3 * 32, 4, () => 8) : tensor.data;
          const name = `model.layers.${layer}.mlp.up_proj.${suffix}`;
          all.set(name, { ...tensor, name, data });
        }
      }
      return all;
    };
    expect(await reasonOf(of(2, 1), config)).toBe("zero-point");
    const modules = await open(of(8, 1), config);
    await modules.weight(module);
    await expect(modules.weight("model.layers.1.mlp.up_proj")).rejects.toMatchObject({
      reason: "zero-point",
    });
  });
});

describe("g_idx", () => {
  const { tensors, config } = packed({});
  const withIndex = (group: (k: number) => number): Tensors => changed(tensors, "g_idx", index(group));

  it("absent, or nothing but zeros, means order", async () => {
    const plain = await dense(tensors, config);
    expect(await dense(changed(tensors, "g_idx", undefined), config)).toEqual(plain);
    expect(
      await dense(
        withIndex(() => 0),
        config,
      ),
    ).toEqual(plain);
  });

  it("assigns inputs to groups in any order", async () => {
    const plain = await dense(tensors, config);
    const weight = await (
      await open(
        withIndex((k) => k % 3),
        config,
      )
    ).weight(module);
    expect([...weight.permute!.subarray(30, 34)]).toEqual([90, 93, 1, 4]);
    const halves = new Uint16Array(tensors.get("scales")!.data.buffer);
    const scale = (g: number, n: number): number => halfToFloat(halves[g * 32 + n]!);
    const expected = plain.map((value, i) => {
      const [n, k] = [Math.floor(i / 96), i % 96];
      return Math.round(value / scale(Math.floor(k / 32), n)) * scale(k % 3, n);
    });
    expect(denseWeight(weight)).toEqual(expected.map((value) => value + 0));
  });

  it("is refused where it leaves its groups or fills one too much", async () => {
    for (const group of [
      (k: number) => Math.floor(k / 24),
      (k: number) => -k,
      (k: number) => (k === 0 ? 1 : Math.floor(k / 32)),
    ]) {
      expect(await reasonOf(withIndex(group), config)).toBe("invalid-index");
    }
    const short = changed(tensors, "g_idx", { shape: [95], data: new Uint8Array(380) });
    expect(await reasonOf(short, config)).toBe("shape-mismatch");
  });
});

describe("tensors", () => {
  const { tensors, config } = packed({});

  it("may have scales of other formats and a bias", async () => {
    const scales = new Uint16Array(tensors.get("scales")!.data.buffer);
    const floats = new Uint8Array(Float32Array.from(scales, (half) => halfToFloat(half)).buffer);
    const wide = changed(tensors, "scales", { dtype: "F32", data: floats });
    expect(await dense(wide, config)).toEqual(await dense(tensors, config));
    const brain = changed(tensors, "scales", {
      dtype: "BF16",
      data: new Uint8Array(new Uint16Array(96).fill(0x3f80).buffer),
    });
    const codes = await dense(brain, config);
    expect(codes.every((code) => Number.isInteger(code) && code >= -8 && code <= 7)).toBe(true);
    const bias = new Uint8Array(Uint16Array.from({ length: 32 }, (_, i) => floatToHalf(i / 4)).buffer);
    const name = `${module}.bias`;
    const biased = new Map([...tensors, ["bias", { name, dtype: "F16", shape: [32], data: bias } as const]]);
    const modules = await open(biased, config);
    expect((await modules.weight(module)).bias).toEqual(Float32Array.from({ length: 32 }, (_, i) => i / 4));
    expect(modules.describe(module)!.tensors).toHaveLength(5);
  });

  it("that are damaged are refused by name", async () => {
    const cases: [Tensors, string][] = [
      [changed(tensors, "qzeros", undefined), "missing-tensor"],
      [changed(tensors, "scales", undefined), "missing-tensor"],
      [changed(tensors, "qzeros", { shape: [4, 3] }), "shape-mismatch"],
      [changed(tensors, "scales", { shape: [96] }), "shape-mismatch"],
      [changed(tensors, "qweight", { shape: [384] }), "shape-mismatch"],
      [changed(tensors, "qweight", { shape: [0, 32] }), "shape-mismatch"],
      [changed(tensors, "qweight", { dtype: "F32" }), "unsupported-type"],
      [changed(tensors, "scales", { dtype: "F64" }), "unsupported-type"],
      [changed(tensors, "g_idx", { dtype: "I64" }), "unsupported-type"],
      [changed(tensors, "scales", { data: new Uint8Array(192).fill(0x7c) }), "non-finite-scale"],
    ];
    for (const [i, [tensors, reason]] of cases.entries())
      expect([i, await reasonOf(tensors, config)]).toEqual([i, reason]);
    await expect((await open(tensors, config)).weight("x")).rejects.toMatchObject({ code: "weight-missing" });
  });

  it("in planes come 32 at a time", async () => {
    const planar = { ...config, bits: 6, checkpoint_format: "gptq_p" };
    // 16 inputs and 32 outputs of 6 bits fill three words.
    const half = changed(tensors, "qweight", { shape: [3, 32] });
    expect(await reasonOf(changed(half, "g_idx", undefined), planar)).toBe("shape-mismatch");
  });
});

describe("the configuration", () => {
  const { tensors, config } = packed({});

  it("decides, else names and shapes of tensors do", () => {
    const detect = (tensors: Tensors, quantization?: PlainJson) =>
      packing.detect(packedFrom([...tensors.values()], quantization));
    expect(detect(tensors)).toBe(0.6);
    expect(detect(new Map())).toBe(0);
    expect(detect(tensors, { quant_method: "awq" })).toBe(0);
    expect(detect(new Map(), { quant_method: "GPTQ" })).toBe(1);
    expect(detect(new Map([...tensors].filter(([suffix]) => suffix !== "g_idx")))).toBe(0);
    // As many rows of words as inputs: AWQ, whatever the g_idx is for.
    expect(detect(changed(tensors, "g_idx", { shape: [12] }))).toBe(0.3);
  });

  it("may have the names of older tools", async () => {
    const old = { w_bit: 4, q_group_size: 32 };
    expect(await dense(tensors, old)).toEqual(await dense(tensors, config));
  });

  it("of other kernels' layouts is refused by name", async () => {
    for (const [change, name] of [
      [{ checkpoint_format: "marlin" }, "marlin"],
      [{ is_marlin_format: true }, "marlin"],
      [{ checkpoint_format: "bitblas" }, "bitblas"],
      [{ checkpoint_format: "qqq" }, "qqq"],
      [{ format: "exllama", checkpoint_format: null }, "exllama"],
      [{ method: "qqq" }, "qqq"],
      [{ pack_dtype: "torch.int16" }, "int16"],
      [{ adapter: { name: "lora", rank: 32 } }, "EoRA"],
    ] as const) {
      await expect(open(tensors, { ...config, ...change })).rejects.toMatchObject({
        code: "format-unsupported",
        reason: "unsupported-variant",
        message: expect.stringContaining(name),
      });
    }
    for (const [suffix, name] of [
      ["s", "marlin"],
      ["s_channel", "qqq"],
    ] as const) {
      const repacked = [`${module}.B`, `${module}.${suffix}`].map(
        (name) => ({ name, dtype: "I32", shape: [1], data: new Uint8Array(4) }) as const,
      );
      const checkpoint = packedFrom(repacked);
      expect(packing.detect(checkpoint)).toBe(0.5);
      await expect(packing.open(checkpoint)).rejects.toMatchObject({
        reason: "unsupported-variant",
        message: expect.stringContaining(name),
      });
    }
  });

  it("that is wrong is refused", async () => {
    const { bits: _, ...without } = config;
    const cases: [PlainJson | undefined, string][] = [
      [undefined, "missing-config"],
      [[1], "missing-config"],
      [without, "invalid-config"],
      [{ ...config, bits: "4" }, "invalid-config"],
      [{ ...config, bits: 5 }, "unsupported-bits"],
      [{ ...config, bits: 4.5 }, "invalid-config"],
      [{ ...config, group_size: 0 }, "invalid-config"],
      [{ ...config, group_size: -2 }, "invalid-config"],
      [{ ...config, group_size: null }, "invalid-config"],
      [{ ...config, group_size: 64 }, "shape-mismatch"],
      [{ ...config, bits: 8 }, "shape-mismatch"],
      [{ ...config, sym: "yes" }, "invalid-config"],
      [{ ...config, checkpoint_format: 2 }, "invalid-config"],
      [{ ...config, dynamic: [] }, "invalid-config"],
      [{ ...config, dynamic: { "+:.*": 4 } }, "invalid-config"],
    ];
    for (const [i, [config, reason]] of cases.entries())
      expect([i, await reasonOf(tensors, config)]).toEqual([i, reason]);
    const head = { name: "lm_head.weight", dtype: "F16", shape: [1, 1], data: new Uint8Array(2) } as const;
    const plain = new Map([...tensors, ["head", head] as const]);
    expect(await reasonOf(plain, config)).toBe("read");
    expect(await reasonOf(plain, { ...config, lm_head: true })).toBe("invalid-config");
  });

  it("overrides bits and groups by pattern, the first that matches", async () => {
    const eight = packed({ bits: 8, groupSize: 48 });
    const expected = await dense(eight.tensors, eight.config);
    const read = async (dynamic: { [pattern: string]: PlainJson }) => {
      const four = { ...config, dynamic };
      return (await reasonOf(eight.tensors, four)) === "read" ? dense(eight.tensors, four) : "refused";
    };
    const override = { bits: 8, group_size: 48 };
    expect(await read({ "+:model\\.layers\\.0\\..*up_proj": override })).toEqual(expected);
    expect(await read({ "model.*": override, "+:model.*": { bits: 4 } })).toEqual(expected);
    expect(await read({ "-:.*down_proj": {}, "+:.*up_proj$": override })).toEqual(expected);
    expect(await read({ "+:layers": override })).toBe("refused");
    expect(await read({ "-:model.*": {}, "+:model.*": override })).toBe("refused");
    expect(
      (await open(eight.tensors, { ...config, dynamic: { ".*": override } })).metadata.get("overrides"),
    ).toBe(1);
  });

  it("has patterns that cannot hold up a reader", async () => {
    for (const pattern of [
      "+:(.*a)*(.*a)*(.*a)*$",
      "(m|o|d|e|l|.)*(x+x+)+y",
      "+:(?<=a)",
      "[",
      `+:${"a?".repeat(400)}`,
    ]) {
      const started = performance.now();
      const reason = await reasonOf(tensors, { ...config, dynamic: { [pattern]: { bits: 4 } } });
      expect(["invalid-config", "read"]).toContain(reason);
      expect(performance.now() - started).toBeLessThan(1000);
    }
  });
});

test("damaged files end in LowbitErrors, quickly", async () => {
  const sources = [packed({}), packed({ bits: 3, symmetric: false }), packed({ bits: 5, groupSize: -1 })];
  const next = random(20261125);
  const outcomes = new Set<string | undefined>();
  const text = new TextEncoder();
  for (let run = 0; run < fuzzCases(400); run++) {
    const { tensors, config } = sources[run % sources.length]!;
    const victim = [...tensors.keys(), "config"][Math.floor(next() * (tensors.size + 1))]!;
    let quantization: PlainJson = config;
    let damaged = tensors;
    if (victim === "config") {
      const bytes = mutate(text.encode(JSON.stringify(config)), next);
      try {
        quantization = JSON.parse(new TextDecoder().decode(bytes)) as PlainJson;
      } catch {
        continue;
      }
    } else {
      const tensor = tensors.get(victim)!;
      const data = mutate(tensor.data, next);
      // Where the count of bytes differs, so does the shape.
      const shape = data.length === tensor.data.length ? tensor.shape : [data.length];
      damaged = changed(tensors, victim, { data, shape, ...(next() < 0.05 && { dtype: "F64" }) });
    }
    const started = performance.now();
    outcomes.add(await reasonOf(damaged, quantization));
    expect(performance.now() - started).toBeLessThan(1000);
  }
  // Damage to codes cannot be seen; damage to most else is.
  for (const outcome of ["read", "invalid-index", "unsupported-type", "non-finite-scale", "shape-mismatch"])
    expect(outcomes).toContain(outcome);
});
