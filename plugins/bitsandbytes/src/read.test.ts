import {
  denseWeight,
  describeType,
  floatToHalf,
  halfToFloat,
  LowbitError,
  type PackedModules,
  type PackedTensor,
  type PlainJson,
  roundToBf16,
} from "@lowbit/core";
import { reference } from "@lowbit/kernels-reference";
import { wasm } from "@lowbit/kernels-wasm";
import {
  describeWithData,
  fuzzCases,
  goldenCheckpoint,
  goldenExpected,
  goldenPacked,
  linearOn,
  mutate,
  packedFrom,
  random,
  transposed,
} from "@lowbit/testing";
import { describe, expect, test } from "vitest";
import { bitsandbytesPacking } from "./index.ts";
import { nf4Values } from "./types.ts";

describeWithData("bitsandbytes files of the reference", ["golden/manifest.json"], () => {
  const { cases, malformed } = goldenPacked("bnb4", "bnb8");

  test.each(cases)("$id: values bit for bit", async (item) => {
    const checkpoint = await goldenCheckpoint(item);
    expect(bitsandbytesPacking.detect(checkpoint)).toBe(1);
    const modules = await bitsandbytesPacking.open(checkpoint);
    const weight = await modules.weight(item.module);
    expect([weight.out, weight.in]).toEqual([item.out_features, item.in_features]);
    const { segments, ...outline } = modules.describe(item.module)!;
    expect(outline).toMatchObject({ out: weight.out, in: weight.in });
    expect(segments).toEqual(weight.segments.map(({ type, from, to }) => ({ type, from, to })));
    const expected = await goldenExpected(item);
    // FP4 has a code for −0, which sums turn into 0.
    const values = transposed(denseWeight(weight), weight.out);
    expect(values).toEqual(expected.get("w")!.map((value) => value + 0));
    const rounded = expected.get("w_rounded_to_storage_dtype");
    if (rounded === undefined) return;
    const round = item.id.includes("bfloat16") ? roundToBf16 : (x: number) => halfToFloat(floatToHalf(x));
    expect(values.map(round)).toEqual(rounded.map((value) => value + 0));
  });

  // The reference adds up in f64 and so do the expected products, in another order perhaps; WASM rounds each 32 inputs to steps of
  // 1/127 of the largest, and weights where a type rounds to half at the end.
  test.each(cases)("$id: products", async (item) => {
    const weight = await (await bitsandbytesPacking.open(await goldenCheckpoint(item))).weight(item.module);
    const expected = await goldenExpected(item);
    const [x, y] = [expected.get("x")!, expected.get("y")!];
    const dense = denseWeight(weight);
    const n = x.length / weight.in;
    for (const [factory, inputs, weights] of [
      [reference(), 0, 2 ** -23],
      [wasm(), 1 / 254, 2 ** -10],
    ] as const) {
      const actual = await linearOn(factory, weight, x);
      for (let i = 0; i < n * weight.out; i++) {
        const row = dense.subarray((i % weight.out) * weight.in, ((i % weight.out) + 1) * weight.in);
        const input = x.subarray(Math.floor(i / weight.out) * weight.in).subarray(0, weight.in);
        const most = input.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        const bound = row.reduce(
          (sum, w, j) => sum + Math.abs(w) * (inputs * most + weights * Math.abs(input[j]!)),
          0,
        );
        expect(Math.abs(actual[i]! - y[i]!), `${factory.name} ${i}`).toBeLessThanOrEqual(bound);
      }
    }
  });

  test.each(malformed)("$id is refused", async (item) => {
    const error: unknown = await bitsandbytesPacking
      .open(await goldenCheckpoint(item))
      .catch((error: unknown) => error);
    expect(LowbitError.is(error) && item.expect.error.split(" or ")).toContain((error as LowbitError).reason);
  });
});

const module = "model.layers.0.mlp.up_proj";
const shape = { out: 6, in: 48, role: "layers.0.ffn.up" };
const values = Float32Array.from({ length: 6 * 48 }, (_, i) => Math.sin(i) / 3);

/** The tensors of a small weight. */
function packed(variant: string, groupSize?: number): Tensors {
  const writer = bitsandbytesPacking.writer!({ variant, ...(groupSize && { groupSize }) });
  const tensors = writer.pack(module, writer.quantize(values, shape)!);
  return new Map(tensors.map((tensor) => [tensor.name.slice(module.length + 1), tensor]));
}

type Tensors = Map<string, PackedTensor>;

function open(tensors: Tensors, quantization?: PlainJson): Promise<PackedModules> {
  return bitsandbytesPacking.open(packedFrom([...tensors.values()], quantization));
}

async function reasonOf(tensors: Tensors, quantization?: PlainJson): Promise<string | undefined> {
  try {
    await (await open(tensors, quantization)).weight(module);
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

const text = (json: string): Partial<PackedTensor> => {
  const data = new TextEncoder().encode(json);
  return { data, shape: [data.length] };
};

describe("4-bit weights", () => {
  test("bytes under another dtype's name are the same weight", async () => {
    const tensors = packed("nf4");
    const plain = await (await open(tensors)).weight(module);
    for (const [dtype, size] of [
      ["BF16", 2],
      ["F16", 2],
      ["F32", 4],
      ["I8", 1],
    ] as const) {
      const view = changed(tensors, "weight", { dtype, shape: [144 / size, 1] });
      expect(await (await open(view)).weight(module)).toEqual(plain);
    }
    expect(await reasonOf(changed(tensors, "weight", { dtype: "I16", shape: [72, 1] }))).toBe(
      "unsupported-type",
    );
  });

  test("an odd count of weights, in rows that are no multiple of anything", async () => {
    // 3 · 15 codes: the last byte is half used, blocks of 32 cross the rows.
    const codes = Uint8Array.from({ length: 46 }, (_, i) => (i * 7) % 16);
    const data = Uint8Array.from({ length: 23 }, (_, i) => codes[2 * i]! * 16 + codes[2 * i + 1]!);
    const absmax = Float32Array.of(2, 3);
    const tensors = new Map<string, PackedTensor>([
      ["weight", { name: `${module}.weight`, dtype: "U8", shape: [23, 1], data }],
      [
        "absmax",
        { name: `${module}.weight.absmax`, dtype: "F32", shape: [2], data: new Uint8Array(absmax.buffer) },
      ],
      ["map", { ...packed("nf4").get("weight.quant_map")! }],
      [
        "state",
        {
          name: `${module}.weight.quant_state.bitsandbytes__nf4`,
          dtype: "U8",
          ...(text('{"quant_type":"nf4","blocksize":32,"dtype":"float16","shape":[3,15]}') as {
            data: Uint8Array;
            shape: number[];
          }),
        },
      ],
    ]);
    const weight = await (await open(tensors)).weight(module);
    expect(denseWeight(weight)).toEqual(
      Float32Array.from({ length: 45 }, (_, i) => nf4Values[codes[i]!]! * absmax[i >> 5]!),
    );
    const again = bitsandbytesPacking.writer!({}).pack(module, weight);
    expect(again.find(({ name }) => name.endsWith("absmax"))!.data).toEqual(new Uint8Array(absmax.buffer));
  });

  test("any table of 16 values", async () => {
    const table = Float32Array.from({ length: 16 }, (_, i) => i ** 3 / 4096);
    const tensors = changed(packed("fp4"), "weight.quant_map", { data: new Uint8Array(table.buffer) });
    const weight = await (await open(tensors)).weight(module);
    const type = weight.segments[0]!.type;
    expect(type.values).toMatchObject({ kind: "book", table: [...table] });
    expect(describeType(type)).toContain("4-bit codes for 16 levels");
    // Types are the same object for the same parameters, because plans are kept by identity.
    expect((await (await open(tensors)).weight(module)).segments[0]!.type).toBe(type);
  });

  test("what is damaged is refused by name", async () => {
    const plain = packed("nf4");
    const nested = packed("nf4-nested");
    const state = "weight.quant_state.bitsandbytes__nf4";
    const json = (overrides: object): Partial<PackedTensor> =>
      text(
        JSON.stringify({ quant_type: "nf4", blocksize: 64, dtype: "float16", shape: [6, 48], ...overrides }),
      );
    const bad = new Uint8Array(Float32Array.of(1, Number.NaN, 1, 1, 1).buffer);
    const cases: [Tensors, string][] = [
      [changed(plain, state, json({ quant_type: "fp4" })), "invalid-config"],
      [changed(plain, state, json({ blocksize: 96 })), "invalid-config"],
      [changed(plain, state, json({ blocksize: 1e9 })), "invalid-config"],
      [changed(plain, state, json({ dtype: "int8" })), "invalid-config"],
      [changed(plain, state, json({ shape: [288] })), "invalid-config"],
      [changed(plain, state, json({ shape: [-6, -48] })), "invalid-config"],
      [changed(plain, state, json({ shape: [2 ** 40, 2 ** 40] })), "invalid-config"],
      [changed(plain, state, json({ shape: [6, 47] })), "shape-mismatch"],
      [changed(plain, state, json({ nested_blocksize: 256, nested_offset: 0 })), "invalid-config"],
      [changed(plain, state, text("[1]")), "invalid-config"],
      [changed(plain, state, text("")), "invalid-json"],
      [changed(plain, state, text('{"dtype":1,"dtype":2}')), "duplicate"],
      [changed(plain, state, undefined), "missing-tensor"],
      [changed(plain, "weight", undefined), "missing-tensor"],
      [changed(plain, "weight.absmax", undefined), "missing-tensor"],
      [changed(plain, "weight.quant_map", undefined), "missing-tensor"],
      [changed(plain, "weight.absmax", { data: bad }), "non-finite-scale"],
      [changed(nested, state, json({})), "invalid-config"],
      [changed(nested, state, json({ nested_blocksize: 256, nested_offset: "x" })), "invalid-config"],
      [changed(nested, state, json({ nested_blocksize: 0, nested_offset: 0 })), "invalid-config"],
      [changed(nested, "weight.nested_quant_map", undefined), "missing-tensor"],
      [changed(nested, "weight.nested_absmax", { data: bad.slice(0, 4).fill(255) }), "non-finite-scale"],
    ];
    for (const [i, [tensors, reason]] of cases.entries())
      expect([i, await reasonOf(tensors)]).toEqual([i, reason]);
    const unknown = changed(plain, state, { name: `${module}.weight.quant_state.bitsandbytes__nf5` });
    expect(await reasonOf(unknown)).toBe("unsupported-type");
    const bias = { name: `${module}.bias`, dtype: "F16", shape: [5], data: new Uint8Array(10) } as const;
    expect(await reasonOf(new Map([...plain, ["bias", bias]]))).toBe("shape-mismatch");
  });
});

describe("LLM.int8", () => {
  test("only plain rows, of any width", async () => {
    const tensors = packed("int8");
    expect(await reasonOf(tensors)).toBe("read");
    expect(await reasonOf(changed(tensors, "weight_format", undefined))).toBe("read");
    expect(await reasonOf(changed(tensors, "weight_format", { data: Uint8Array.of(2) }))).toBe(
      "unsupported-layout",
    );
    expect(await reasonOf(changed(tensors, "SCB", { data: new Uint8Array(24).fill(255) }))).toBe(
      "non-finite-scale",
    );
    expect(await reasonOf(changed(tensors, "SCB", { data: new Uint8Array(20), shape: [5] }))).toBe(
      "shape-mismatch",
    );
    expect(await reasonOf(changed(tensors, "weight", undefined))).toBe("missing-tensor");
    // 1031 is prime: the scale stands in front of 1024 columns and of 7.
    const wide = { out: 2, in: 1031, role: "layers.0.ffn.up" };
    const data = Uint8Array.from({ length: 2 * 1031 }, (_, i) => i % 256);
    const scb = new Uint8Array(Float32Array.of(1.5, -0.3).buffer);
    const weight = await (
      await open(
        new Map<string, PackedTensor>([
          ["weight", { name: `${module}.weight`, dtype: "I8", shape: [2, 1031], data }],
          ["SCB", { name: `${module}.SCB`, dtype: "F32", shape: [2], data: scb }],
        ]),
      )
    ).weight(module);
    expect(weight.segments.map(({ from, to }) => [from, to])).toEqual([
      [0, 1024],
      [1024, 1031],
    ]);
    const bytes = new Int8Array(data.buffer);
    expect(denseWeight(weight)).toEqual(
      Float32Array.from(bytes, (code, i) =>
        Math.fround(
          Math.fround(code * Math.fround(i < wide.in ? 1.5 : -0.3)) * Math.fround(7.874015718698502e-3),
        ),
      ).map((value) => value + 0),
    );
    expect(bitsandbytesPacking.writer!({ bits: 8 }).pack(module, weight)[0]!.data).toEqual(data);
  });
});

describe("the configuration", () => {
  test("decides, else names of tensors do", async () => {
    const detect = (tensors: Tensors, quantization?: PlainJson) =>
      bitsandbytesPacking.detect(packedFrom([...tensors.values()], quantization));
    expect(detect(packed("nf4"))).toBe(0.5);
    expect(detect(packed("int8"))).toBe(0.5);
    expect(detect(new Map())).toBe(0);
    expect(detect(packed("nf4"), { quant_method: "gptq" })).toBe(0);
    expect(detect(new Map(), { load_in_8bit: true })).toBe(0.9);
    expect(detect(new Map(), { quant_method: "bitsandbytes" })).toBe(1);
  });

  test("that contradicts the tensors is an error, or named", async () => {
    const four = {
      quant_method: "bitsandbytes",
      load_in_4bit: true,
      load_in_8bit: false,
      bnb_4bit_quant_type: "fp4",
    };
    expect(await reasonOf(packed("int8"), four)).toBe("invalid-config");
    expect((await open(packed("nf4"), four)).metadata.get("contradiction")).toBe("declared fp4, stored nf4");
  });

  test("of weights to be quantized on loading: nothing is packed", async () => {
    const plain = {
      name: `${module}.weight`,
      dtype: "F16",
      shape: [6, 48],
      data: new Uint8Array(576),
    } as const;
    const modules = await open(new Map([["weight", plain]]), {
      quant_method: "bitsandbytes",
      load_in_4bit: true,
    });
    expect(modules.describe(module)).toBeUndefined();
    expect(modules.metadata.get("weights")).toMatch(/plain/);
    await expect(modules.weight(module)).rejects.toMatchObject({ code: "weight-missing" });
  });
});

test("damaged files end in LowbitErrors, quickly", async () => {
  const sources = [packed("nf4"), packed("fp4-nested", 128), packed("int8")].map((tensors) => [
    ...tensors.values(),
  ]);
  const next = random(20261125);
  const outcomes = new Set<string | undefined>();
  for (let run = 0; run < fuzzCases(400); run++) {
    const tensors = sources[run % sources.length]!;
    const victim = Math.floor(next() * tensors.length);
    // Either the bytes differ, or their count and with it the shape.
    const damaged = tensors.map((tensor, i) => {
      if (i !== victim) return tensor;
      const data = mutate(tensor.data, next);
      const shape = data.length === tensor.data.length ? tensor.shape : [data.length];
      return { ...tensor, data, shape, ...(next() < 0.05 && { dtype: "F64" as const }) };
    });
    const started = performance.now();
    outcomes.add(await reasonOf(new Map(damaged.map((tensor) => [tensor.name, tensor]))));
    expect(performance.now() - started).toBeLessThan(1000);
  }
  // Damage to codes cannot be seen; damage to most else is.
  expect(outcomes).toContain("read");
  expect(outcomes.size).toBeGreaterThan(4);
});
