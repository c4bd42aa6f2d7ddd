import {
  denseWeight,
  floatToHalf,
  halfToFloat,
  type LinearWeight,
  type PackedTensor,
  type PackingWriter,
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
import { exl2Packing } from "./index.ts";
import { scaleTable, spansOf, typeOf } from "./layout.ts";
import { layerGroups } from "./quantize.ts";
import { splitScales } from "./scales.ts";

const module = "model.layers.0.self_attn.q_proj";
const quantization = { quant_method: "exl2", bits: 4 };

function writer(options = {}): PackingWriter {
  return exl2Packing.writer!(options);
}

async function reread(tensors: readonly PackedTensor[]): Promise<LinearWeight> {
  return (await exl2Packing.open(packedFrom(tensors, quantization))).weight(module);
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

describeWithData("EXL2 files of the reference, written again", ["golden/manifest.json"], () => {
  const { cases } = goldenPacked("exl2");

  test.each(cases)("$id: byte for byte", async (item) => {
    const checkpoint = await goldenCheckpoint(item);
    const weight = await (await exl2Packing.open(checkpoint)).weight(item.module);
    const held = writer().hold(weight);
    expect(held).toBe(weight);
    const packed = writer().pack(item.module, weight);
    expect(byName(packed)).toEqual(byName(await packedTensors(checkpoint)));
    // Without the hint the maxima may differ, but not what they mean.
    const { provenance: _, ...bare } = weight;
    const again = await reread(writer().pack(module, bare));
    expect(again.segments).toEqual(weight.segments);
  });
});

describe("quantizing", () => {
  test.each([
    [2.3, 0.75],
    [3, 0.4],
    [4, 0.18],
    [5.5, 0.06],
    [8, 0.02],
  ])("%d bits: what is packed is read back, the error is small", async (bits, most) => {
    const [out, columns] = [160, 1056];
    const values = gaussian(out * columns, bits);
    const weight = writer({ bits }).quantize(values, { out, in: columns, role: "layers.0.attn.q" })!;
    expect(relativeError(values, denseWeight(weight))).toBeLessThan(most);
    expect(writer().hold(weight)).toBe(weight);
    const tensors = writer().pack(module, weight);
    const read = await reread(tensors);
    expect(read).toEqual(weight);
    const stored = tensors.reduce((sum, { data }) => sum + data.length * 8, 0) / (out * columns);
    // Whole groups are given one width; besides, the file's bits are never above what was asked for.
    if (bits < 8) expect(stored).toBeLessThanOrEqual(bits);
    expect(stored).toBeGreaterThan(bits - 0.25);
  });

  test("more bits go to the inputs with large weights", () => {
    const [out, columns] = [32, 128];
    const values = gaussian(out * columns, 7).map((value, i) => value * (i % columns < 32 ? 1 : 20));
    const weight = writer({ bits: 5 }).quantize(values, { out, in: columns, role: "layers.0.ffn.up" })!;
    expect([...weight.permute!.subarray(96)].every((input) => input < 32)).toBe(true);
  });

  test("experts of a layer keep their inputs in order, so that they can be stacked", async () => {
    const [out, columns] = [32, 64];
    const values = gaussian(out * columns, 8);
    const weight = writer({ bits: 6 }).quantize(values, {
      out,
      in: columns,
      role: "layers.0.ffn.experts.up",
    })!;
    expect(weight.permute).toBeUndefined();
    expect(relativeError(values, denseWeight(weight))).toBeLessThan(0.15);
    expect(await reread(writer().pack(module, weight))).toEqual(weight);
  });

  test("outputs are filled up to 32 and a bias is kept", async () => {
    const [out, columns] = [45, 64];
    const bias = gaussian(out, 3).map((value) => halfToFloat(floatToHalf(value)));
    const plain = writer().quantize(gaussian(out * columns, 2), {
      out,
      in: columns,
      role: "layers.0.attn.q",
    })!;
    const tensors = writer().pack(module, { ...plain, bias });
    expect(tensors[0]).toMatchObject({ dtype: "I32", shape: [expect.any(Number), 64] });
    expect(tensors.at(-1)).toMatchObject({ name: `${module}.bias`, dtype: "F16", shape: [out] });
    const read = await reread(tensors);
    expect(read).toEqual({ ...plain, bias });
    const odd = { ...plain, bias: bias.map((value) => value + 1e-7) };
    expect((await reread(writer().pack(module, odd))).bias).toEqual(odd.bias);
  });

  test("NaN and infinities are refused", () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const values = new Float32Array(32 * 32).fill(value, 5, 6);
      expect(() => writer().quantize(values, { out: 32, in: 32, role: "layers.0.attn.q" })).toThrow(/finite/);
    }
  });

  test("zeros stay zeros", async () => {
    const [out, columns] = [32, 64];
    const weight = writer().quantize(new Float32Array(out * columns), {
      out,
      in: columns,
      role: "layers.0.attn.q",
    })!;
    expect(denseWeight(await reread(writer().pack(module, weight)))).toEqual(new Float32Array(out * columns));
  });

  test("the head has the reference's plan; embeddings, routers and odd sizes stay plain", () => {
    const values = gaussian(64 * 2560, 1);
    const shape = { out: 64, in: 2560, role: "head" };
    const head = writer().quantize(values, shape)!;
    expect(head.segments.map(({ type, from, to }) => [type.name, from, to])).toEqual([
      [typeOf(8, 128).name, 0, 384],
      [typeOf(6, 128).name, 384, 2560],
    ]);
    for (const role of ["embed", "embed.position", "layers.0.ffn.router", "layers.3.ffn.shared.router"])
      expect(writer().quantize(values, { ...shape, role })).toBeUndefined();
    expect(writer().quantize(values, { out: 10, in: 48, role: "layers.0.attn.q" })).toBeUndefined();
  });

  test("choices that it does not have are refused", () => {
    for (const options of [
      { bits: 2 },
      { bits: 9 },
      { bits: Number.NaN },
      { groupSize: 48 },
      { symmetric: false },
      { variant: "x" },
    ])
      expect(() => writer(options)).toThrow(/EXL2/);
  });

  test("configuration", () => {
    const modules = new Map([["lm_head", { role: "head", types: [] }]]);
    expect(writer({ bits: 3.5 }).configuration(modules, [])).toMatchObject({
      quantization: { quant_method: "exl2", bits: 3.5, head_bits: 6 },
      baseName: "output",
    });
    expect(writer().configuration(new Map(), []).quantization).toMatchObject({ bits: 5, head_bits: 16 });
  });
});

describe("holding", () => {
  const made = (): LinearWeight =>
    writer().quantize(gaussian(32 * 64, 5), { out: 32, in: 64, role: "layers.0.attn.q" })!;

  test("weights of other types, with row scales or with scales of their own are not its own", () => {
    const weight = made();
    expect(writer().hold({ ...weight, rowScale: new Float32Array(32).fill(1) })).toBeUndefined();
    expect(writer().hold({ ...weight, experts: 2, out: 16 })).toBeUndefined();
    expect(writer().hold({ ...weight, segments: weight.segments.slice(0, 1) })).toBeUndefined();
    const blocks = weight.segments[0]!.blocks.slice();
    blocks[0] = blocks[0]! ^ 1;
    const [first, ...rest] = weight.segments;
    const changed = { ...weight, segments: [{ ...first!, blocks }, ...rest] };
    expect(writer().hold(changed)).toBeUndefined();
    expect(() => writer().pack(module, changed)).toThrow(/q_proj/);
  });

  test("a hint that does not fit the scales is not used", async () => {
    const weight = made();
    const groups = weight.segments.length;
    for (const scaleMax of [
      new Array(groups).fill(15_360),
      [1],
      new Array(groups).fill("x"),
      new Array(groups).fill(31_744),
    ]) {
      const read = await reread(writer().pack(module, { ...weight, provenance: { exl2: { scaleMax } } }));
      expect(read.segments).toEqual(weight.segments);
    }
  });

  test("any maximum and codes are found again from the scales", () => {
    const codes = fc.array(fc.integer({ min: 0, max: 15 }), { minLength: 1, maxLength: 40 });
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0x7bff }), codes, (max, codes) => {
        const scales = Uint16Array.from(codes, (code) => scaleTable(max)[code]!);
        const split = splitScales(scales)!;
        expect(Uint16Array.from(split.codes, (code) => scaleTable(split.max)[code]!)).toEqual(scales);
        expect(splitScales(scales, max)!.max).toBe(max);
      }),
      { numRuns: 2000 },
    );
  });
});

test("any grid of legal groups: written, read, equal", async () => {
  const width = fc.constantFrom(2, 3, 4, 5, 6, 8);
  const group = fc.record({ bits: width, size: fc.constantFrom(32, 64, 96, 128, 1056) });
  const shape = fc.record({
    groups: fc.array(group, { minLength: 1, maxLength: 6 }),
    out: fc.integer({ min: 1, max: 70 }),
    seed: fc.nat(),
  });
  await fc.assert(
    fc.asyncProperty(shape, async ({ groups, out, seed }) => {
      const next = random(seed);
      const spans = spansOf([...groups].sort((a, b) => b.bits - a.bits));
      const columns = spans.at(-1)!.to;
      const scaleMax: number[] = [];
      const segments = spans.map((span) => {
        const { type, from, to, groups, size } = span;
        const blocks = new Uint8Array(out * ((to - from) / type.block) * type.bytes).map(() => next() * 256);
        const parts = size / type.block;
        for (let g = 0; g < groups; g++) {
          const max = Math.floor(next() * 0x7c00);
          scaleMax.push(max);
          const table = scaleTable(max);
          for (let n = 0; n < out; n++) {
            const scale = table[Math.floor(next() * 16)]!;
            for (let p = 0; p < parts; p++) {
              const at = ((n * groups + g) * parts + p) * type.bytes;
              blocks.set([scale & 255, scale >> 8], at);
            }
          }
        }
        return { type, from, to, blocks };
      });
      const permute = Int32Array.from({ length: columns }, (_, i) => i);
      for (let i = columns - 1; i > 0; i--) {
        const j = Math.floor(next() * (i + 1));
        [permute[i], permute[j]] = [permute[j]!, permute[i]!];
      }
      const bias = Float32Array.from({ length: out }, () => next());
      const weight: LinearWeight = {
        out,
        in: columns,
        segments,
        permute,
        bias,
        provenance: { exl2: { scaleMax } },
      };
      expect(writer().hold(weight)).toBe(weight);
      const tensors = writer().pack(module, weight);
      const read = await reread(tensors);
      expect(read).toEqual(weight);
      expect(writer().pack(module, read)).toEqual(tensors);
    }),
    { numRuns: 25 },
  );
});

test("groups of two neighbouring widths, as many wide ones as the bits allow", () => {
  const outline = (bits: number, out: number, columns: number, size: number) =>
    layerGroups(bits, out, columns, size).map(({ bits, size, from, to }) => [bits, size, from, to]);
  // 4 + 4/128 + 48/(128·4096) + 32/4096 bits are 4.039, so that at 4.5 some 46 of 100 columns have 5.
  expect(outline(4.5, 4096, 4096, 128)).toEqual([
    [5, 128, 0, 1792],
    [4, 128, 1792, 4096],
  ]);
  expect(outline(3, 1 << 20, 96 + 32, 64)).toEqual(
    [[2, 64, 0, 128]].map(() => [3, 64, 0, 64]).concat([[2, 64, 64, 128]]),
  );
  expect(outline(8, 32, 160, 128)).toEqual([
    [8, 128, 0, 128],
    [8, 32, 128, 160],
  ]);
  // What lies beside the codes takes more than that alone.
  expect(outline(2.3, 32, 64, 32)).toEqual([[2, 32, 0, 64]]);
});
