import {
  denseWeight,
  floatToHalf,
  halfToFloat,
  LowbitError,
  type PackedModules,
  type PackedTensor,
  type PackingOptions,
  type PlainJson,
} from "@lowbit/core";
import { fuzzCases, mutate, packedFrom, random } from "@lowbit/testing";
import { describe, expect, it, test } from "vitest";
import { awqPacking as packing } from "./index.ts";

const module = "model.layers.0.mlp.fc1";
const shape = { out: 16, in: 128, role: "layers.0.ffn.up" };
const values = Float32Array.from({ length: 16 * 128 }, (_, i) => Math.sin(i * i) / 3);

type Tensors = Map<string, PackedTensor>;
type Config = { [key: string]: PlainJson };

/** The tensors of a small weight by suffix, and the configuration that goes with them. */
function packed(options: PackingOptions = {}): { tensors: Tensors; config: Config } {
  const writer = packing.writer({ groupSize: 32, ...options });
  const tensors = writer.pack(module, writer.quantize(values, shape)!);
  const described = new Map([[module, { role: shape.role, types: [] }]]);
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

/** With another tensor beside them. */
function beside(tensors: Tensors, name: string, length: number): Tensors {
  const data = new Uint8Array(Uint16Array.from({ length }, (_, i) => floatToHalf(i / 4)).buffer);
  return new Map([...tensors, ["beside", { name, dtype: "F16", shape: [length], data }]]);
}

describe("tensors", () => {
  const { tensors, config } = packed();

  it("may have scales of other formats and a bias", async () => {
    const halves = new Uint16Array(tensors.get("scales")!.data.buffer);
    const floats = new Uint8Array(Float32Array.from(halves, (half) => halfToFloat(half)).buffer);
    const wide = changed(tensors, "scales", { dtype: "F32", data: floats });
    expect(await dense(wide, config)).toEqual(await dense(tensors, config));
    const modules = await open(beside(tensors, `${module}.bias`, 16), config);
    expect((await modules.weight(module)).bias).toEqual(Float32Array.from({ length: 16 }, (_, i) => i / 4));
    expect(modules.describe(module)!.tensors).toHaveLength(4);
    expect([...modules.metadata]).toEqual([
      ["bits", 4],
      ["group size", 32],
      ["layout", "gemm"],
      ["modules", 1],
    ]);
  });

  it("that are damaged are refused by name", async () => {
    const fast = packed({ variant: "gemv_fast" });
    const cases: [Tensors, Config, string][] = [
      [changed(tensors, "qzeros", undefined), config, "missing-tensor"],
      [changed(tensors, "scales", undefined), config, "missing-tensor"],
      [changed(tensors, "qzeros", { shape: [2, 4] }), config, "shape-mismatch"],
      [changed(tensors, "scales", { shape: [64] }), config, "shape-mismatch"],
      [changed(tensors, "qweight", { shape: [256] }), config, "shape-mismatch"],
      [changed(tensors, "qweight", { shape: [0, 2] }), config, "shape-mismatch"],
      [changed(tensors, "qweight", { dtype: "F32" }), config, "unsupported-type"],
      [changed(tensors, "scales", { dtype: "F64" }), config, "unsupported-type"],
      [changed(tensors, "scales", { data: new Uint8Array(128).fill(0x7c) }), config, "non-finite-scale"],
      [beside(tensors, `${module}.bias`, 15), config, "shape-mismatch"],
      [
        changed(fast.tensors, "qzeros", { data: new Uint8Array(1024).fill(0x7c) }),
        fast.config,
        "non-finite-scale",
      ],
      [changed(fast.tensors, "scales", { dtype: "BF16" }), fast.config, "unsupported-type"],
      [fast.tensors, config, "unsupported-type"],
      [tensors, fast.config, "unsupported-type"],
      [tensors, { ...config, version: "gemv" }, "shape-mismatch"],
    ];
    for (const [i, [tensors, config, reason]] of cases.entries())
      expect([i, await reasonOf(tensors, config)]).toEqual([i, reason]);
    await expect((await open(tensors, config)).weight("x")).rejects.toMatchObject({ code: "weight-missing" });
  });

  it("of variants that compute otherwise are refused by name", async () => {
    for (const [name, text] of [
      ["model.layers.0.mlp.act.scales", "activations"],
      [`${module}.scales2`, "llm-awq"],
    ] as const) {
      await expect(open(beside(tensors, name, 16), config)).rejects.toMatchObject({
        code: "format-unsupported",
        reason: "unsupported-variant",
        message: expect.stringContaining(text),
      });
    }
  });
});

describe("the configuration", () => {
  const { tensors, config } = packed();

  it("decides, else names and shapes of tensors do", () => {
    const detect = (tensors: Tensors, quantization?: PlainJson) =>
      packing.detect(packedFrom([...tensors.values()], quantization));
    expect(detect(tensors)).toBe(0.6);
    expect(detect(packed({ variant: "gemv" }).tensors)).toBe(0.2);
    expect(detect(new Map())).toBe(0);
    expect(detect(tensors, { quant_method: "gptq" })).toBe(0);
    expect(detect(new Map(), { quant_method: "AWQ" })).toBe(1);
    expect(detect(beside(tensors, `${module}.g_idx`, 128))).toBe(0);
    const own = packedFrom([...tensors.values()], { w_bit: 4 });
    expect(packing.detect({ ...own, quantizationFile: "quant_config.json" })).toBe(0.9);
  });

  it("may be AutoAWQ's own, and name kernels instead of a layout", async () => {
    const expected = await dense(tensors, config);
    const others: readonly Config[] = [
      { w_bit: 4, q_group_size: 32, zero_point: true, version: "GEMM" },
      { bits: 4, group_size: 32 },
      { ...config, version: "exllama" },
      { ...config, version: "marlin", modules_to_not_convert: ["visual", "fc2"] },
    ];
    for (const other of others) expect(await dense(tensors, other)).toEqual(expected);
  });

  it("that is wrong is refused", async () => {
    const cases: [PlainJson | undefined, string][] = [
      [undefined, "missing-config"],
      [[1], "missing-config"],
      [{ ...config, bits: "4" }, "invalid-config"],
      [{ ...config, bits: 8 }, "unsupported-bits"],
      [{ ...config, group_size: 0 }, "invalid-config"],
      [{ ...config, group_size: 1.5 }, "invalid-config"],
      [{ ...config, group_size: 48 }, "shape-mismatch"],
      [{ ...config, group_size: 64 }, "shape-mismatch"],
      [{ ...config, zero_point: false }, "unsupported-variant"],
      [{ ...config, version: "__proto__" }, "unsupported-variant"],
      [{ ...config, version: 1 }, "unsupported-variant"],
      [{ ...config, modules_to_not_convert: "fc1" }, "invalid-config"],
      [{ ...config, modules_to_not_convert: ["fc1"] }, "invalid-config"],
    ];
    for (const [i, [config, reason]] of cases.entries())
      expect([i, await reasonOf(tensors, config)]).toEqual([i, reason]);
  });
});

test("damaged files end in LowbitErrors, quickly", async () => {
  const sources = [packed(), packed({ variant: "gemv" }), packed({ variant: "gemv_fast", groupSize: -1 })];
  const next = random(20261125);
  const outcomes = new Set<string | undefined>();
  const text = new TextEncoder();
  for (let run = 0; run < fuzzCases(400); run++) {
    const { tensors, config } = sources[run % sources.length]!;
    const victim = [...tensors.keys(), "config"][Math.floor(next() * (tensors.size + 1))]!;
    let quantization: PlainJson = config;
    let damaged = tensors;
    if (victim === "config") {
      try {
        const bytes = mutate(text.encode(JSON.stringify(config)), next);
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
  for (const outcome of ["read", "unsupported-type", "non-finite-scale", "shape-mismatch"])
    expect(outcomes).toContain(outcome);
});
