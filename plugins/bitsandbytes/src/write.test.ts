import {
  denseWeight,
  floatToHalf,
  halfToFloat,
  type LinearWeight,
  type PackedTensor,
  type PackingWriter,
  type PlainJson,
} from "@lowbit/core";
import {
  describeWithData,
  goldenCheckpoint,
  goldenPacked,
  packedFrom,
  packedTensors,
  random,
} from "@lowbit/testing";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { fourBitWeight } from "./four-bit.ts";
import { bitsandbytesPacking } from "./index.ts";
import { dynamicMap, nest, nestedCodes, unnest } from "./nested.ts";
import { formatState, parseState, pythonNumber } from "./state.ts";
import { fp4Values, nf4Values } from "./types.ts";

const module = "model.layers.0.self_attn.q_proj";
const role = "layers.0.attn.q";

function writer(options = {}): PackingWriter {
  return bitsandbytesPacking.writer!(options);
}

async function reread(tensors: readonly PackedTensor[]): Promise<LinearWeight> {
  return (await bitsandbytesPacking.open(packedFrom(tensors))).weight(module);
}

function byName(tensors: readonly PackedTensor[]): PackedTensor[] {
  return [...tensors].sort((a, b) => (a.name < b.name ? -1 : 1));
}

function gaussian(length: number, seed: number): Float32Array {
  const next = random(seed);
  return Float32Array.from(
    { length },
    () => 0.05 * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(6.28 * next()),
  );
}

function relativeError(a: Float32Array, b: Float32Array): number {
  let off = 0;
  let all = 0;
  for (let i = 0; i < a.length; i++) {
    off += (a[i]! - b[i]!) ** 2;
    all += a[i]! ** 2;
  }
  return Math.sqrt(off / all);
}

describeWithData("bitsandbytes files of the reference, written again", ["golden/manifest.json"], () => {
  const { cases } = goldenPacked("bnb4", "bnb8");

  test.each(cases)("$id: byte for byte", async (item) => {
    const checkpoint = await goldenCheckpoint(item);
    const weight = await (await bitsandbytesPacking.open(checkpoint)).weight(item.module);
    expect(writer().hold(weight)).toBe(weight);
    const packed = writer().pack(item.module, weight);
    const expected = await packedTensors(checkpoint);
    // transformers keeps weight_format as a single number; the golden file has a vector of one.
    const scalars = packed.map((tensor) =>
      tensor.name.endsWith("_format") ? { ...tensor, shape: [1] } : tensor,
    );
    expect(byName(scalars)).toEqual(byName(expected));
  });

  // A block's largest value is its absmax exactly, so that rounding what was rounded finds the same codes again.
  test.each(cases.filter(({ id }) => id.startsWith("bnb4")))(
    "$id: quantized again, the same codes",
    async (item) => {
      const weight = await (await bitsandbytesPacking.open(await goldenCheckpoint(item))).weight(item.module);
      const groupSize = item.id.includes("bs128") ? 128 : 64;
      const shape = { out: weight.out, in: weight.in, role };
      const values = denseWeight(weight);
      const again = writer({ variant: item.id.slice(5, 8), groupSize }).quantize(values, shape)!;
      expect(again.segments[0]!.type.name).toBe(weight.segments[0]!.type.name);
      // FP4 has two codes for zero.
      expect(denseWeight(again)).toEqual(values);
      if (item.id.includes("nf4")) expect(again.segments).toEqual(weight.segments);
    },
  );

  test("LLM.int8 quantized again: the same codes", async () => {
    const item = cases.find(({ format }) => format === "bnb8")!;
    const weight = await (await bitsandbytesPacking.open(await goldenCheckpoint(item))).weight(item.module);
    const again = writer({ variant: "int8" }).quantize(denseWeight(weight), {
      out: weight.out,
      in: weight.in,
      role,
    })!;
    const codes = ({ segments }: LinearWeight) =>
      segments.map(({ blocks }) => blocks.filter((_, i) => i % 260 >= 4));
    expect(codes(again)).toEqual(codes(weight));
    expect(relativeError(denseWeight(weight), denseWeight(again))).toBeLessThan(1e-6);
  });
});

describe("quantizing", () => {
  test.each([
    ["nf4", 64, 0.11],
    ["nf4-nested", 64, 0.12],
    ["fp4", 64, 0.16],
    ["fp4-nested", 128, 0.17],
    ["nf4", 4096, 0.17],
    ["int8", -1, 0.01],
  ])(
    "%s in blocks of %d: what is packed is read back, the error is small",
    async (variant, groupSize, most) => {
      // 336 = 5.25 · 64: blocks cross from row to row.
      const [out, columns] = [96, 336];
      const values = gaussian(out * columns, groupSize);
      const weight = writer({ variant, groupSize }).quantize(values, { out, in: columns, role })!;
      expect(relativeError(values, denseWeight(weight))).toBeLessThan(most);
      expect(writer({ variant }).hold(weight)).toBe(weight);
      const tensors = writer().pack(module, weight);
      expect(tensors.some(({ name }) => name.endsWith("nested_absmax"))).toBe(variant.endsWith("-nested"));
      const read = await reread(tensors);
      expect(read).toEqual(weight);
      expect(writer().pack(module, read)).toEqual(tensors);
    },
  );

  test("NaN and infinities are refused", () => {
    for (const variant of ["nf4", "int8"]) {
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
        const values = new Float32Array(32 * 32).fill(value, 5, 6);
        expect(() => writer({ variant }).quantize(values, { out: 32, in: 32, role })).toThrow(/finite/);
      }
    }
  });

  test("zeros, and rows of zeros", async () => {
    for (const variant of ["nf4", "nf4-nested", "fp4", "int8"]) {
      const values = new Float32Array(64 * 32);
      values.fill(0.5, 64, 128);
      const weight = writer({ variant }).quantize(values, { out: 32, in: 64, role })!;
      expect(relativeError(values, denseWeight(await reread(writer().pack(module, weight))))).toBeLessThan(
        0.01,
      );
    }
  });

  test("the head, embeddings, routers and odd sizes stay plain", () => {
    const values = gaussian(64 * 64, 1);
    for (const role of ["head", "embed", "layers.0.ffn.router"])
      expect(writer().quantize(values, { out: 64, in: 64, role })).toBeUndefined();
    expect(writer().quantize(values, { out: 64, in: 8, role })).toBeUndefined();
  });

  test("a bias is kept", async () => {
    const bias = gaussian(32, 4);
    const plain = writer().quantize(gaussian(32 * 64, 2), { out: 32, in: 64, role })!;
    expect(await reread(writer().pack(module, { ...plain, bias }))).toEqual({ ...plain, bias });
    const halves = bias.map((value) => halfToFloat(floatToHalf(value)));
    const tensors = writer().pack(module, { ...plain, bias: halves });
    expect(tensors.at(-1)).toMatchObject({ name: `${module}.bias`, dtype: "F16" });
    expect(await reread(tensors)).toEqual({ ...plain, bias: halves });
  });

  test("choices that it does not have are refused", () => {
    const wrong = [
      { variant: "nf8" },
      { bits: 5 },
      { bits: 8, variant: "nf4" },
      { symmetric: false },
      { groupSize: 48 },
      { bits: 8, groupSize: 64 },
    ];
    for (const options of wrong) expect(() => writer(options)).toThrow(/bitsandbytes/);
  });

  test("configuration", () => {
    const modules = (...types: string[]) =>
      new Map(types.map((type, i) => [`m${i}`, { role, types: [type] }]));
    const quantization = (
      map: Map<string, { role: string; types: string[] }>,
      options = {},
      dense: string[] = [],
    ) => writer(options).configuration(map, dense).quantization;
    expect(quantization(modules("fp4 b64 f32"), {}, ["lm_head"])).toMatchObject({
      quant_method: "bitsandbytes",
      load_in_4bit: true,
      bnb_4bit_quant_type: "fp4",
      llm_int8_skip_modules: ["lm_head"],
    });
    expect(quantization(modules("int8 g256 f32 128"))).toMatchObject({
      load_in_4bit: false,
      load_in_8bit: true,
    });
    expect(quantization(modules(), { bits: 8 })).toMatchObject({ load_in_8bit: true });
    expect(() => quantization(modules("int8 g256 f32 128", "nf4 b64 f32"))).toThrow(/both/);
  });
});

describe("holding", () => {
  const made = (variant: string): LinearWeight =>
    writer({ variant }).quantize(gaussian(2048, 5), { out: 32, in: 64, role })!;

  test("a variant that was chosen holds its own width only", () => {
    expect(writer({ variant: "int8" }).hold(made("nf4"))).toBeUndefined();
    expect(writer({ variant: "nf4" }).hold(made("int8"))).toBeUndefined();
    expect(writer({ variant: "nf4" }).hold(made("fp4"))).toBeDefined();
  });

  test("weights with permutations or other row scales are not its own", () => {
    const permute = Int32Array.from({ length: 64 }, (_, i) => 63 - i);
    for (const variant of ["nf4", "int8"]) {
      const weight = made(variant);
      expect(writer().hold({ ...weight, permute })).toBeUndefined();
      expect(writer().hold({ ...weight, rowScale: new Float32Array(32).fill(0.5) })).toBeUndefined();
      expect(() => writer().pack(module, { ...weight, permute })).toThrow(/q_proj/);
    }
  });

  test("without its provenance, or with one that does not fit, values stay", async () => {
    const values = gaussian(48 * 48, 6);
    for (const variant of ["nf4", "nf4-nested"]) {
      const weight = writer({ variant, groupSize: 128 }).quantize(values, { out: 48, in: 48, role })!;
      const nested = { blockSize: 256, offset: 0.25, outer: [1] };
      const hints: PlainJson[] = [
        null,
        { blockSize: 48 },
        { blockSize: 32, dtype: "x", nested },
        { nested: { ...nested, outer: 3 } },
        { nested: { ...nested, map: [1] } },
      ];
      for (const own of [undefined, ...hints]) {
        const { provenance: _, ...bare } = weight;
        const changed: LinearWeight =
          own === undefined ? bare : { ...weight, provenance: { bitsandbytes: own } };
        const read = await reread(writer().pack(module, changed));
        expect(denseWeight(read)).toEqual(denseWeight(weight));
      }
    }
  });
});

test("any codes and absmaxes: written, read, equal", async () => {
  const shape = fc.record({
    kind: fc.constantFrom("nf4" as const, "fp4" as const),
    blockSize: fc.constantFrom(32, 64, 256, 4096),
    out: fc.integer({ min: 1, max: 20 }),
    columns: fc.integer({ min: 1, max: 300 }),
    nested: fc.boolean(),
    seed: fc.nat(),
  });
  await fc.assert(
    fc.asyncProperty(shape, async ({ kind, blockSize, out, columns, nested, seed }) => {
      const next = random(seed);
      const count = out * columns;
      const packed = new Uint8Array(Math.ceil(count / 2)).map(() => next() * 256);
      if (count % 2 === 1) packed[packed.length - 1]! &= 0xf0;
      const absmax = Float32Array.from({ length: Math.ceil(count / blockSize) }, () => next());
      const state = { kind, blockSize, dtype: "bfloat16", out, in: columns };
      const table = kind === "nf4" ? nf4Values : fp4Values;
      const second = nest(absmax, 256);
      const weight = fourBitWeight(
        nested
          ? { state, table, packed, absmax: unnest(second.codes, second.nested), nested: second.nested }
          : { state, table, packed, absmax },
      );
      expect(writer().hold(weight)).toBe(weight);
      const tensors = writer().pack(module, weight);
      expect(tensors[0]!.data).toEqual(packed);
      expect(tensors[1]!.dtype).toBe(nested ? "U8" : "F32");
      expect(await reread(tensors)).toEqual(weight);
    }),
    { numRuns: 60 },
  );
});

describe("absmaxes quantized themselves", () => {
  test("codes are found again", () => {
    const absmax = fc.array(fc.float({ min: 0, max: 8, noNaN: true }), { minLength: 1, maxLength: 600 });
    fc.assert(
      fc.property(absmax, (list) => {
        const { nested, codes } = nest(Float32Array.from(list), 256);
        const values = unnest(codes, nested);
        const found = nestedCodes(values, nested)!;
        expect(unnest(found, nested)).toEqual(values);
      }),
      { numRuns: 300 },
    );
  });

  test("the map has 256 rising values from −0.993 to 1", () => {
    expect(dynamicMap.length).toBe(256);
    expect(dynamicMap.every((value, i) => i === 0 || value > dynamicMap[i - 1]!)).toBe(true);
    expect([dynamicMap[0], dynamicMap[127], dynamicMap[255]]).toEqual([Math.fround(-0.99296874), 0, 1]);
  });
});

test("numbers are spelled as Python does", () => {
  const spelled = [1, -0, 0.18160676956176758, 1e-5, 0.0001, 1.5e-7, 1e16, 123456, -2.5e22];
  expect(spelled.map(pythonNumber)).toEqual([
    ...["1.0", "-0.0", "0.18160676956176758", "1e-05", "0.0001", "1.5e-07", "1e+16", "123456.0", "-2.5e+22"],
  ]);
  const state = { kind: "nf4", blockSize: 64, dtype: "bfloat16", out: 3, in: 5 } as const;
  for (const whole of [state, { ...state, nested: { blockSize: 256, offset: Math.fround(0.1) } }])
    expect(parseState("m", "nf4", formatState(whole))).toEqual(whole);
});
