import {
  denseWeight,
  LowbitError,
  type PackedModules,
  type PackedTensor,
  type PlainJson,
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
import { exl2Packing } from "./index.ts";

describeWithData("EXL2 files of the reference", ["golden/manifest.json"], () => {
  const { cases, malformed } = goldenPacked("exl2");

  test.each(cases)("$id: values bit for bit", async (item) => {
    const checkpoint = await goldenCheckpoint(item);
    expect(exl2Packing.detect(checkpoint)).toBe(1);
    const modules = await exl2Packing.open(checkpoint);
    const weight = await modules.weight(item.module);
    expect([weight.out, weight.in]).toEqual([item.out_features, item.in_features]);
    const { segments, ...outline } = modules.describe(item.module)!;
    expect(outline).toMatchObject({ out: weight.out, in: weight.in });
    expect(segments).toEqual(weight.segments.map(({ type, from, to }) => ({ type, from, to })));
    const expected = await goldenExpected(item);
    expect(transposed(denseWeight(weight), weight.out)).toEqual(expected.get("w"));
  });

  // The reference adds up in f64 and so do the expected products, in another order perhaps; WASM rounds each 32 inputs to steps of
  // 1/127 of the largest, and weights where a type rounds to half at the end.
  test.each(cases)("$id: products", async (item) => {
    const weight = await (await exl2Packing.open(await goldenCheckpoint(item))).weight(item.module);
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
    const read = async () => (await exl2Packing.open(await goldenCheckpoint(item))).weight(item.module);
    const error: unknown = await read().catch((error: unknown) => error);
    expect(LowbitError.is(error) && item.expect.error.split(" or ")).toContain((error as LowbitError).reason);
  });
});

const module = "model.layers.0.self_attn.o_proj";
type Tensors = Map<string, PackedTensor>;

/** The tensors of a small weight. */
function packed(name = module, out = 48, columns = 96): Tensors {
  const writer = exl2Packing.writer!({ bits: 6 });
  const next = random(out + columns);
  const values = Float32Array.from({ length: out * columns }, () => next() - 0.5);
  const weight = writer.quantize(values, { out, in: columns, role: "layers.0.attn.o" })!;
  return new Map(writer.pack(name, weight).map((tensor) => [tensor.name.slice(name.length + 1), tensor]));
}

function open(tensors: Tensors): Promise<PackedModules> {
  return exl2Packing.open(packedFrom([...tensors.values()], { quant_method: "exl2", bits: 6 }));
}

async function reasonOf(tensors: Tensors): Promise<string | undefined> {
  try {
    await (await open(tensors)).weight(module);
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

const bytesOf = (array: Int32Array | Uint16Array): Uint8Array => new Uint8Array(array.slice().buffer);

describe("the parts of a module", () => {
  test("q_perm may stand in for q_invperm or beside it, 16 bits wide as well", async () => {
    const tensors = packed();
    const weight = await (await open(tensors)).weight(module);
    const forward = weight.permute!;
    const perm = { name: `${module}.q_perm`, dtype: "I32", shape: [96], data: bytesOf(forward) } as const;
    const short = { ...perm, dtype: "I16", data: bytesOf(Uint16Array.from(forward)) } as const;
    const bare = changed(tensors, "q_invperm", undefined);
    for (const more of [perm, short]) {
      expect(await (await open(new Map([...bare, ["q_perm", more]]))).weight(module)).toEqual(weight);
      expect(await (await open(new Map([...tensors, ["q_perm", more]]))).weight(module)).toEqual(weight);
    }
    const other = { ...perm, data: bytesOf(forward.toReversed()) };
    expect(await reasonOf(new Map([...tensors, ["q_perm", other]]))).toBe("invalid-permutation");
    expect(await reasonOf(bare)).toBe("missing-tensor");
    // The identity is not handed on, so that nothing is gathered.
    const identity = Int32Array.from({ length: 96 }, (_, i) => i);
    const plain = await (await open(changed(tensors, "q_invperm", { data: bytesOf(identity) }))).weight(
      module,
    );
    expect(plain.permute).toBeUndefined();
  });

  test("the filling of outputs up to 32 goes: by the bias, and in a head by the embedding", async () => {
    expect((await open(packed())).describe(module)!.out).toBe(64);
    const bias = {
      name: `${module}.bias`,
      dtype: "BF16",
      shape: [48],
      data: new Uint8Array(96).fill(0x3f),
    } as const;
    const weight = await (await open(new Map([...packed(), ["bias", bias]]))).weight(module);
    expect([weight.out, weight.bias!.length]).toEqual([48, 48]);
    expect(weight.bias![0]).toBeCloseTo(0.7461, 3);
    const full = await (await open(packed())).weight(module);
    expect(denseWeight(weight)).toEqual(denseWeight(full).subarray(0, 48 * 96));
    expect(await reasonOf(new Map([...packed(), ["bias", { ...bias, shape: [24, 2] }]]))).toBe(
      "shape-mismatch",
    );
    const table = {
      name: "model.embed_tokens.weight",
      dtype: "F16",
      shape: [48, 96],
      data: new Uint8Array(9216),
    } as const;
    const head = new Map<string, PackedTensor>([...packed("lm_head"), ["table", table]]);
    expect((await open(head)).describe("lm_head")).toMatchObject({ out: 48, in: 96 });
  });

  test("groups wider than a block of the engine", async () => {
    // One group of 2080 columns becomes blocks of 1040 at most; the values are those of its bit stream.
    const [out, columns, bits] = [32, 2080, 4];
    const words = new Int32Array(((columns * bits) / 32) * out).map((_, i) => Math.imul(i + 1, 0x9e3779b1));
    const tensor = (suffix: string, dtype: PackedTensor["dtype"], shape: number[], data: Uint8Array) =>
      [suffix, { name: `${module}.${suffix}`, dtype, shape, data }] as const;
    const weight = await (
      await open(
        new Map<string, PackedTensor>([
          tensor("q_weight", "I32", [260, out], bytesOf(words)),
          tensor("q_invperm", "I32", [columns], bytesOf(Int32Array.from({ length: columns }, (_, i) => i))),
          tensor("q_scale", "I32", [1, 4], new Uint8Array(16).fill(0xff)),
          tensor("q_scale_max", "F16", [1], bytesOf(Uint16Array.of(0x3c00))),
          tensor("q_groups", "I16", [2], bytesOf(Uint16Array.of(bits, 0))),
        ]),
      )
    ).weight(module);
    // Code 15 of the scales is 256 · 1/256.
    const code = (n: number, k: number): number => (words[(k >> 3) * out + n]! >>> (4 * (k & 7))) & 15;
    const expected = Array.from(
      { length: out * columns },
      (_, i) => code(Math.floor(i / columns), i % columns) - 8,
    );
    expect(denseWeight(weight)).toEqual(Float32Array.from(expected));
    expect(
      (
        await open(
          new Map(
            exl2Packing.writer!({})
              .pack(module, weight)
              .map((t) => [t.name, t]),
          ),
        )
      ).describe(module),
    ).toMatchObject({ in: columns });
  });

  test("what is damaged is refused by name", async () => {
    const tensors = packed();
    const groups = new Uint16Array(tensors.get("q_groups")!.data.slice().buffer);
    const table = (change: (groups: Uint16Array) => void): Partial<PackedTensor> => {
      const copy = groups.slice();
      change(copy);
      return { data: bytesOf(copy) };
    };
    const last = groups.length - 2;
    const cases: [Tensors, string][] = [
      ...["q_scale", "q_scale_max", "q_groups"].map((suffix): [Tensors, string] => [
        changed(tensors, suffix, undefined),
        "missing-tensor",
      ]),
      [
        changed(
          tensors,
          "q_groups",
          table((groups) => groups.fill(7, 0, 1)),
        ),
        "unsupported-bits",
      ],
      [
        changed(
          tensors,
          "q_groups",
          table((groups) => groups.fill(8, last, last + 1)),
        ),
        "invalid-order",
      ],
      [
        changed(
          tensors,
          "q_groups",
          table((groups) => groups.fill(1, 1, 2)),
        ),
        "invalid-offset",
      ],
      [
        changed(
          tensors,
          "q_groups",
          table((groups) => groups.fill(65_535, last + 1)),
        ),
        "invalid-offset",
      ],
      [
        changed(
          tensors,
          "q_groups",
          table((groups) => groups.fill(4, last, last + 1)),
        ),
        "shape-mismatch",
      ],
      [changed(tensors, "q_groups", { shape: [1, groups.length] }), "shape-mismatch"],
      [changed(tensors, "q_groups", { dtype: "F16" }), "unsupported-type"],
      [changed(tensors, "q_scale_max", { shape: [] }), "shape-mismatch"],
      [changed(tensors, "q_weight", { shape: [tensors.get("q_weight")!.data.length / 4] }), "shape-mismatch"],
      [changed(tensors, "q_invperm", { data: bytesOf(new Int32Array(96).fill(-1)) }), "invalid-permutation"],
      [
        changed(tensors, "q_scale_max", { data: bytesOf(new Uint16Array(groups.length / 2).fill(0xfc00)) }),
        "non-finite-scale",
      ],
    ];
    for (const [i, [tensors, reason]] of cases.entries())
      expect([i, await reasonOf(tensors)]).toEqual([i, reason]);
  });

  test("the configuration decides, else names of tensors do", async () => {
    const detect = (tensors: Tensors, quantization?: PlainJson) =>
      exl2Packing.detect(packedFrom([...tensors.values()], quantization));
    expect(detect(packed())).toBe(0.5);
    expect(detect(new Map())).toBe(0);
    expect(detect(packed(), { quant_method: "gptq" })).toBe(0);
    const modules = await open(packed());
    expect(modules.describe("model.norm")).toBeUndefined();
    await expect(modules.weight("model.norm")).rejects.toMatchObject({ code: "weight-missing" });
    expect(Object.fromEntries(modules.metadata)).toMatchObject({
      modules: 1,
      "bits per weight, declared": 6,
    });
    const { bytes, tensors } = modules.describe(module)!;
    expect(bytes).toBe([...packed().values()].reduce((sum, { data }) => sum + data.length, 0));
    expect(tensors.length).toBe(5);
  });
});

test("damaged files end in LowbitErrors, quickly", async () => {
  const tensors = [...packed().values()];
  const next = random(20261126);
  const outcomes = new Set<string | undefined>();
  for (let run = 0; run < fuzzCases(400); run++) {
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
