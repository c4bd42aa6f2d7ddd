import {
  denseType,
  denseWeight,
  type LinearWeight,
  LowbitError,
  type PackedTensor,
  type PackingOptions,
  type PlainJson,
  safetensorsBits,
} from "@lowbit/core";
import { buildGrid } from "@lowbit/packing";
import {
  describeWithData,
  fuzzCases,
  goldenCases,
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
import { compressedTensors, compressedTensorsPacking as packing } from "./index.ts";
import { toFloat4, toFloat8 } from "./write-floats.ts";

const byName = (tensors: readonly PackedTensor[]) =>
  [...tensors]
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .map((tensor) => ({ ...tensor, data: Uint8Array.from(tensor.data) }));

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

const numbers = (count: number, seed: number): Float32Array => {
  const next = random(seed);
  return Float32Array.from({ length: count }, () => (next() - 0.5) ** 3);
};

describeWithData("golden files", ["golden/manifest.json"], () => {
  it.each(goldenCases("compressed-tensors").filter(({ id }) => !id.includes("modelopt")))(
    "$id come back byte for byte",
    async (golden) => {
      const checkpoint = await packedCheckpoint(testData(`golden/${golden.files.packed}`)!, golden.config);
      const weight = await (await packing.open(checkpoint)).weight(golden.module);
      const writer = packing.writer!(golden.id.includes("int8") ? { variant: "int-quantized" } : {});
      const held = writer.hold(weight);
      expect(held).toBe(weight);
      expect(byName(writer.pack(golden.module, held!))).toEqual(byName(await packedTensors(checkpoint)));
    },
  );

  it.each(goldenCases("fp8").filter(({ id }) => id.includes("deepseek")))(
    "$id are held as blocks",
    async (golden) => {
      const checkpoint = await packedCheckpoint(testData(`golden/${golden.files.packed}`)!, golden.config);
      const fp8 = compressedTensors().packings!.find(({ name }) => name === "fp8")!;
      const weight = await (await fp8.open(checkpoint)).weight(golden.module);
      expect(packing.writer!({}).hold(weight)).toBe(weight);
      expect(await readBack(weight)).toEqual(weight);
    },
  );
});

describe("hold", () => {
  const grids = fc.record({
    bits: fc.integer({ min: 2, max: 8 }),
    rows: fc.integer({ min: 1, max: 40 }),
    columns: fc.integer({ min: 170, max: 300 }),
    group: fc.constantFrom(16, 32, 64, 100, 1000),
    scale: fc.constantFrom("f16", "bf16", "f32" as const),
    zero: fc.constantFrom("integer", "middle", "other" as const),
    permuted: fc.boolean(),
    bias: fc.boolean(),
    seed: fc.integer(),
  });

  function gridOf(made: typeof grids extends fc.Arbitrary<infer T> ? T : never): LinearWeight {
    const { bits, rows, columns, group, scale, permuted, bias, seed } = made;
    const next = random(seed);
    const below = (limit: number) => Math.floor(next() * limit);
    const zero = made.zero === "integer" ? made.zero : 2 ** (bits - 1) - (made.zero === "other" ? 1 : 0);
    const builder = buildGrid(rows, columns, { bits, group, scale, zero });
    for (let n = 0; n < rows; n++) {
      builder.row(
        n,
        Uint8Array.from({ length: columns }, () => below(2 ** bits)),
        Array.from({ length: builder.groups }, () => (scale === "f32" ? 0x3c000000 : 0x3c00) + below(256)),
        Array.from({ length: builder.groups }, () => below(2 ** bits)),
      );
    }
    const permute = Int32Array.from({ length: columns }, (_, k) => k);
    for (let k = columns - 1; k > 0; k--) {
      const other = below(k + 1);
      [permute[k], permute[other]] = [permute[other]!, permute[k]!];
    }
    return {
      out: rows,
      in: columns,
      segments: builder.segments,
      ...(permuted && { permute }),
      ...(bias && { bias: Float32Array.from({ length: rows }, () => below(9) / 7) }),
    };
  }

  it("keeps every value of any grid, and is what is read back", async () => {
    const check = fc.asyncProperty(grids, async (made) => {
      const weight = gridOf(made);
      const writer = packing.writer!({});
      const held = writer.hold(weight)!;
      expect(denseWeight(held)).toEqual(denseWeight(weight));
      expect(writer.hold(held)).toBe(held);
      expect(await readBack(held)).toEqual(held);
      if (!made.permuted) expect(await readBack(held, { variant: "int-quantized" })).toEqual(held);
    });
    await fc.assert(check, { seed: 5, numRuns: 60 });
  });

  it("leaves what it has no format for, or what the user did not ask for", () => {
    const values = Float32Array.of(1, 2, 3, 4);
    const plain = {
      out: 1,
      in: 4,
      segments: [{ type: denseType("F32", "f32"), from: 0, to: 4, blocks: new Uint8Array(values.buffer) }],
    };
    expect(packing.writer!({}).hold(plain)).toBeUndefined();
    const made = {
      bits: 4,
      rows: 2,
      columns: 256,
      group: 64,
      scale: "f16",
      zero: "middle",
      permuted: false,
      bias: false,
      seed: 1,
    } as const;
    const weight = gridOf(made);
    for (const options of [
      {},
      { bits: 4 },
      { groupSize: 64 },
      { symmetric: true },
      { variant: "int-quantized" },
    ]) {
      expect(packing.writer!(options).hold(weight)).toBe(weight);
    }
    for (const options of [
      { bits: 8 },
      { groupSize: 128 },
      { groupSize: -1 },
      { symmetric: false },
      { variant: "float-quantized" },
    ]) {
      expect(packing.writer!(options).hold(weight)).toBeUndefined();
    }
    expect(packing.writer!({}).hold({ ...weight, rowScale: new Float32Array(2) })).toBeUndefined();
    expect(
      packing.writer!({ variant: "int-quantized" }).hold(gridOf({ ...made, permuted: true })),
    ).toBeUndefined();
  });
});

describe("quantize", () => {
  const shape = { out: 9, in: 256, role: "layers.0.attn.q" };

  it.each<[PackingOptions, number]>([
    [{}, 1 / 15],
    [{ symmetric: false }, 1 / 15],
    [{ bits: 8 }, 1 / 255],
    [{ bits: 3, groupSize: 32, symmetric: false }, 1 / 7],
    [{ groupSize: -1 }, 1 / 15],
    [{ variant: "int-quantized" }, 1 / 255],
    [{ variant: "float-quantized" }, 1 / 28],
    [{ variant: "mxfp4-pack-quantized" }, 1 / 4],
  ])("%j within half a step, and what it made is read back", async (options, step) => {
    const values = numbers(9 * 256, 3);
    // A row of zeros, and one of a single sign.
    values.fill(0, 0, 256);
    values.set(values.subarray(256, 512).map(Math.abs), 256);
    const weight = packing.writer!(options).quantize(values, shape)!;
    const most = Math.max(...values.map(Math.abs));
    const dense = denseWeight(weight);
    // A bfloat16 scale is off by 2^-9 at most, which the largest code multiplies.
    const bound = most * (step * 1.01 + 2 ** -8);
    for (const [i, value] of values.entries()) expect(Math.abs(dense[i]! - value)).toBeLessThan(bound);
    expect(packing.writer!(options).hold(weight)).toBe(weight);
    expect(await readBack(weight, options)).toEqual(weight);
  });

  it("leaves heads, embeddings and rows of odd lengths alone, and refuses what is not finite", () => {
    const { quantize } = packing.writer!({});
    for (const role of ["embed", "head", "layers.0.ffn.router"]) {
      expect(quantize(new Float32Array(256), { out: 1, in: 256, role })).toBeUndefined();
    }
    expect(quantize(new Float32Array(200), { out: 1, in: 200, role: "x" })).toBeUndefined();
    // Readers could not tell the packing of so few words.
    const narrow = { out: 1, in: 20, role: "x" };
    expect(
      packing.writer!({ bits: 3, groupSize: 20 }).quantize(new Float32Array(20), narrow),
    ).toBeUndefined();
    expect(() => quantize(new Float32Array(128).fill(Number.NaN), { out: 1, in: 128, role: "x" })).toThrow(
      /finite/,
    );
  });

  it.each<PackingOptions>([
    { variant: "marlin-24" },
    { bits: 1 },
    { bits: 4.5 },
    { groupSize: 0 },
    { variant: "float-quantized", bits: 4 },
    { variant: "mxfp4-pack-quantized", symmetric: false },
  ])("has no options %j", (options) => {
    expect(() => packing.writer!(options)).toThrow(expect.objectContaining({ code: "bad-argument" }));
  });

  it("rounds floats to the nearest, ties to even", () => {
    const four = [0.25, 0.26, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 5.1, 9, -5, -0.1];
    expect(four.map(toFloat4)).toEqual([0, 1, 2, 2, 4, 4, 6, 6, 7, 7, 14, 8]);
    const eight = [2 ** -10, 2 ** -9, 3 * 2 ** -10, 2 ** -6, 1.0625, 1.1875, 1.9375, 448, 464, 1e9, -1];
    expect(eight.map(toFloat8)).toEqual([0, 1, 2, 8, 0x38, 0x3a, 0x40, 0x7e, 0x7e, 0x7e, 0xb8]);
  });
});

describe("configuration", () => {
  it("targets most modules by class and the others by name", () => {
    const writer = packing.writer!({});
    const quantized = (options: PackingOptions, columns = 256) =>
      packing.writer!(options).quantize(numbers(columns, 1), { out: 1, in: columns, role: "x" })!;
    const grid = buildGrid(1, 64, { bits: 8, group: 64, scale: "f16", zero: "integer" });
    const permute = Int32Array.from({ length: 64 }, (_, j) => 63 - j);
    const weights = {
      a: quantized({}),
      b: quantized({}, 512),
      c: quantized({ variant: "float-quantized" }),
      d: { out: 1, in: 64, segments: grid.segments, permute },
    };
    const described = Object.entries(weights).map(
      ([name, weight]) => [name, { role: "x", types: [], ...writer.describe!(weight) }] as const,
    );
    const { quantization } = writer.configuration(new Map(described), ["lm_head", "model.norm"]);
    expect(quantization).toMatchObject({
      quant_method: "compressed-tensors",
      format: "mixed-precision",
      ignore: ["lm_head"],
      config_groups: {
        group_0: {
          targets: ["Linear"],
          format: "pack-quantized",
          weights: { num_bits: 4, group_size: 128, symmetric: true },
        },
        group_1: {
          targets: ["c"],
          format: "float-quantized",
          weights: { num_bits: 8, type: "float", strategy: "channel" },
        },
        group_2: {
          targets: ["d"],
          weights: { num_bits: 8, strategy: "channel", symmetric: false, actorder: "group" },
        },
      },
    });
    expect(() => writer.pack("m", { ...weights.a, experts: 2 })).toThrow(/single matrix/);
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
  const files: [string, PackedTensor[], PlainJson][] = [];
  for (const variant of ["pack-quantized", "int-quantized", "float-quantized", "mxfp4-pack-quantized"]) {
    const writer = packing.writer!({
      variant,
      ...(variant === "pack-quantized" && { symmetric: false, bits: 3 }),
    });
    const weight = writer.quantize(numbers(16 * 256, 1), { out: 16, in: 256, role: "x" })!;
    const description = { role: "x", types: [], ...writer.describe!(weight) };
    const { quantization } = writer.configuration(new Map([["m", description]]), ["lm_head"]);
    files.push([variant, [...writer.pack("m", weight)], quantization]);
  }
  const fp8 = files[2]![1];
  const renamed = fp8.map((tensor) => ({
    ...tensor,
    name: tensor.name.replace("weight_scale", "weight_scale_inv"),
  }));
  files.push([
    "fp8",
    renamed,
    { quant_method: "fp8", activation_scheme: "dynamic", weight_block_size: [16, 256] },
  ]);

  const zeros = (name: string, dtype: PackedTensor["dtype"], shape: readonly number[]): PackedTensor => {
    const bytes = (shape.reduce((a, b) => a * b, 1) * safetensorsBits[dtype]) / 8;
    return { name, dtype, shape, data: new Uint8Array(bytes).fill(0x35) };
  };
  const nv = [
    zeros("m.weight", "U8", [4, 32]),
    zeros("m.weight_scale", "F8_E4M3", [4, 4]),
    zeros("m.weight_scale_2", "F32", []),
  ];
  files.push(["modelopt", nv, { quant_method: "modelopt", quant_algo: "NVFP4", group_size: 16 }]);
  const experts = [
    zeros("m_blocks", "U8", [2, 3, 2, 16]),
    zeros("m_scales", "U8", [2, 3, 2]),
    zeros("m_bias", "BF16", [2, 3]),
  ];
  files.push(["gpt-oss", experts, { quant_method: "mxfp4", modules_to_not_convert: [] }]);

  it.each(files)("of %s files ends in an error or a weight, soon", async (name, tensors, config) => {
    const next = random(seedFor(name, 11));
    const below = (limit: number) => Math.floor(next() * limit);
    for (let run = 0; run < fuzzCases(150); run++) {
      const damaged = tensors.map((tensor) => ({ ...tensor }));
      const victim = damaged[below(damaged.length)]!;
      let text = JSON.stringify(config);
      const kind = below(4);
      if (kind === 0) victim.data = mutate(victim.data, next);
      else if (kind === 1) {
        const shape = [...victim.shape];
        shape[below(shape.length)] = [0, 1, 3, 7, 64, 2 ** 40][below(6)]!;
        Object.assign(victim, below(4) === 0 ? { shape: shape.slice(1) } : { shape });
      } else if (kind === 2)
        Object.assign(victim, { dtype: ["U8", "I32", "F16", "F8_E4M3", "I64"][below(5)] });
      else {
        // Values of the configuration, exchanged for others.
        const values = [...text.matchAll(/:("[^"]*"|\d+|true|false|null)/g)];
        const { index, 0: whole } = values[below(values.length)]!;
        const other = ["0", "-1", "3", '"x"', "null", "1e300", "true", "[]"][below(8)]!;
        text = `${text.slice(0, index)}:${other}${text.slice(index + whole.length)}`;
      }
      const kept = damaged.filter(() => below(20) > 0).flatMap(fitted);
      const checkpoint = packedFrom(kept, JSON.parse(text));
      const start = performance.now();
      for (const own of compressedTensors().packings!) {
        if (own.detect(checkpoint) === 0) continue;
        try {
          const modules = await own.open(checkpoint);
          if (modules.describe("m")) await modules.weight("m");
        } catch (error) {
          if (!LowbitError.is(error)) throw error;
          expect(error.reason, error.message).toBeDefined();
        }
      }
      expect(performance.now() - start).toBeLessThan(1000);
    }
  });
});
