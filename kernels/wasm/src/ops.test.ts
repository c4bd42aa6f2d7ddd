import {
  type Backend,
  denseType,
  type LinearWeight,
  LowbitError,
  type QuantType,
  type Tensor,
} from "@lowbit/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { backendOf, evaluate, largestError, normals, randomOf, sameBits, variants } from "../test/support.ts";

/** An 8-bit type of our own: 32 signed codes and an f32 scale. */
const int8: QuantType = {
  name: "test-int8",
  block: 32,
  bytes: 36,
  code: { per: 1, pieces: [{ at: 32, bits: 8, dims: [[32, 8]] }], signed: true },
  values: { kind: "affine", zero: 0 },
  scale: { super: { field: { per: 32, pieces: [{ at: 0, bits: 32, dims: [] }] }, format: "f32" } },
};

const f32 = denseType("F32", "f32");
const random = randomOf(42);
const rowsOf = (x: Float32Array, columns: number): Float32Array[] =>
  Array.from({ length: x.length / columns }, (_, r) => x.subarray(r * columns, (r + 1) * columns));
const sum = (x: ArrayLike<number>): number => Array.from(x).reduce((total, value) => total + value, 0);

function int8Weight(out: number, columns: number, experts = 1): LinearWeight {
  const count = (out * experts * columns) / 32;
  const blocks = new Uint8Array(count * 36);
  const view = new DataView(blocks.buffer);
  for (let b = 0; b < count; b++) {
    view.setFloat32(b * 36, (0.5 + random()) / 127, true);
    for (let i = 0; i < 32; i++) view.setInt8(b * 36 + 4 + i, Math.floor(random() * 255) - 127);
  }
  return { out, in: columns, experts, segments: [{ type: int8, from: 0, to: columns, blocks }] };
}

function f32Weight(values: Float32Array, out: number, columns: number): LinearWeight {
  return {
    out,
    in: columns,
    segments: [{ type: f32, from: 0, to: columns, blocks: new Uint8Array(values.buffer) }],
  };
}

describe.each(variants)("ops (%s)", (variant) => {
  let backend: Backend;
  let plain: Backend;
  beforeAll(async () => {
    backend = await backendOf(variant);
    plain = await backendOf("simd128");
  });
  afterAll(() => Promise.all([backend.dispose(), plain.dispose()]));

  /** Runs on the build under test, and checks that the other build gives the same bits. */
  async function run(body: (backend: Backend) => Tensor): Promise<Float32Array> {
    const result = await evaluate(backend, () => body(backend));
    const other = await evaluate(plain, () => body(plain));
    expect(sameBits(result, other)).toBe(true);
    return result;
  }
  const shapes = [
    [1, 1],
    [2, 3],
    [3, 7],
    [1, 64],
    [5, 100],
    [2, 577],
  ] as const;

  it.each(shapes)("rmsNorm [%i, %i]", async (rows, columns) => {
    const x = normals(rows * columns, random, 3);
    const w = normals(columns, random);
    const weight = [backend, plain].map((b) => [b, b.vector(w)] as const);
    const y = await run((b) =>
      b.ops.rmsNorm(b.ops.constant(x, rows, columns), {
        weight: weight.find(([owner]) => owner === b)![1],
        epsilon: 1e-5,
      }),
    );
    const expected = rowsOf(x, columns).flatMap((row) => {
      const factor = 1 / Math.sqrt(sum(Array.from(row, (v) => v * v)) / columns + 1e-5);
      return Array.from(row, (v, i) => v * factor * w[i]!);
    });
    expect(largestError(y, expected)).toBeLessThan(4e-6);
    for (const [owner, vector] of weight) owner.free(vector);
  });

  it("rmsNorm over groups without a weight", async () => {
    const x = normals(2 * 24, random);
    const y = await run((b) => b.ops.rmsNorm(b.ops.constant(x, 2, 24), { epsilon: 1e-6, group: 6 }));
    const expected = rowsOf(x, 6).flatMap((row) => {
      const factor = 1 / Math.sqrt(sum(Array.from(row, (v) => v * v)) / 6 + 1e-6);
      return Array.from(row, (v) => v * factor);
    });
    expect(largestError(y, expected)).toBeLessThan(2e-6);
  });

  it.each(shapes)("layerNorm [%i, %i]", async (rows, columns) => {
    const x = normals(rows * columns, random).map((v) => v + 5);
    const w = normals(columns, random);
    const c = normals(columns, random);
    const y = await run((b) =>
      b.ops.layerNorm(b.ops.constant(x, rows, columns), {
        weight: b.ops.constant(w, 1, columns),
        bias: b.ops.constant(c, 1, columns),
        epsilon: 1e-5,
      }),
    );
    const expected = rowsOf(x, columns).flatMap((row) => {
      const mean = sum(row) / columns;
      const variance = sum(Array.from(row, (v) => (v - mean) ** 2)) / columns;
      return Array.from(row, (v, i) => ((v - mean) / Math.sqrt(variance + 1e-5)) * w[i]! + c[i]!);
    });
    // The row's offset of 5 costs two bits against its deviation of 1.
    expect(largestError(y, expected)).toBeLessThan(columns === 1 ? 1e-4 : 1e-5);
  });

  it.each([
    ["adjacent", 8, 8],
    ["adjacent", 10, 6],
    ["halves", 8, 8],
    ["halves", 20, 14],
    ["halves", 64, 64],
  ] as const)("rope %s, head size %i, %i dimensions", async (pairing, headSize, dimensions) => {
    const [rows, heads] = [3, 2];
    const x = normals(rows * heads * headSize, random);
    const turns = Array.from({ length: (rows * dimensions) / 2 }, () => random() * 6);
    const angles = Float32Array.from(turns.flatMap((turn) => [Math.cos(turn), Math.sin(turn)]));
    const y = await run((b) =>
      b.ops.rope(b.ops.constant(x, rows, heads * headSize), b.ops.constant(angles, rows, dimensions), {
        headSize,
        pairing,
      }),
    );
    const expected = Float64Array.from(x);
    for (let row = 0; row < rows; row++) {
      for (let head = 0; head < heads; head++) {
        for (let i = 0; i < dimensions / 2; i++) {
          const base = (row * heads + head) * headSize;
          const [first, second] =
            pairing === "halves" ? [base + i, base + i + dimensions / 2] : [base + 2 * i, base + 2 * i + 1];
          const cos = angles[row * dimensions + 2 * i]!;
          const sin = angles[row * dimensions + 2 * i + 1]!;
          expected[first] = x[first]! * cos - x[second]! * sin;
          expected[second] = x[second]! * cos + x[first]! * sin;
        }
      }
    }
    expect(largestError(y, expected)).toBeLessThan(1e-6);
  });

  it.each(shapes)("add and mul, whole and repeated rows [%i, %i]", async (rows, columns) => {
    const x = normals(rows * columns, random);
    const y = normals(rows * columns, random);
    const row = normals(columns, random);
    const result = await run((b) => {
      const { ops } = b;
      const whole = ops.add(ops.constant(x, rows, columns), ops.constant(y, rows, columns));
      const product = ops.mul(whole, ops.constant(row, 1, columns));
      return ops.mul(ops.add(product, ops.constant(row, 1, columns)), ops.constant(y, rows, columns));
    });
    const f = Math.fround;
    const expected = x.map((v, i) => f(f(f(f(v + y[i]!) * row[i % columns]!) + row[i % columns]!) * y[i]!));
    expect(result).toEqual(expected);
  });

  it("gate is activate times up, scale multiplies, softcap bounds", async () => {
    const [x, up] = [normals(21, random, 4), normals(21, random)];
    const gated = await run((b) => b.ops.gate(b.ops.constant(x, 3, 7), b.ops.constant(up, 3, 7), "silu"));
    const apart = await run((b) =>
      b.ops.mul(b.ops.activate(b.ops.constant(x, 3, 7), "silu"), b.ops.constant(up, 3, 7)),
    );
    expect(gated).toEqual(apart);
    expect(await run((b) => b.ops.scale(b.ops.constant(x, 3, 7), 0.3))).toEqual(
      x.map((v) => v * Math.fround(0.3)),
    );
    const capped = await run((b) => b.ops.softcap(b.ops.constant(x, 3, 7), 5));
    expect(
      largestError(
        capped,
        Float64Array.from(x, (v) => 5 * Math.tanh(v / 5)),
      ),
    ).toBeLessThan(1e-6);
  });

  it.each(shapes)("softmax and normalizeRows [%i, %i]", async (rows, columns) => {
    const x = normals(rows * columns, random, 6);
    const soft = await run((b) => b.ops.softmax(b.ops.constant(x, rows, columns)));
    const expected = rowsOf(x, columns).flatMap((row) => {
      const top = Math.max(...row);
      const weights = Array.from(row, (v) => Math.exp(v - top));
      return weights.map((v) => v / sum(weights));
    });
    expect(largestError(soft, expected)).toBeLessThan(3e-7);
    const positive = x.map((v) => Math.abs(v) + 0.1);
    const normalized = await run((b) => b.ops.normalizeRows(b.ops.constant(positive, rows, columns)));
    const shares = rowsOf(positive, columns).flatMap((row) => Array.from(row, (v) => v / sum(row)));
    expect(largestError(normalized, shares)).toBeLessThan(2e-7);
  });

  it("softmax over the tail of a row sees −∞ as nothing and large values without overflow", async () => {
    const x = Float32Array.of(1e30, 1e30, Number.NEGATIVE_INFINITY, 0, 1e30, 3, 2);
    const y = await run((b) => b.ops.softmax(b.ops.constant(x, 1, 7)));
    expect(largestError(y, [1 / 3, 1 / 3, 0, 0, 1 / 3, 0, 0])).toBeLessThan(1e-7);
  });

  it.each([
    [1, 1, 1],
    [2, 5, 5],
    [3, 64, 8],
    [1, 1000, 40],
    [2, 333, 1],
  ])("topK [%i, %i], k = %i, with many ties", async (rows, columns, k) => {
    const x = Float32Array.from({ length: rows * columns }, () => Math.floor(random() * 20) - 10);
    const ids = await run((b) => b.ops.topK(b.ops.constant(x, rows, columns), k).ids);
    const values = await run((b) => b.ops.topK(b.ops.constant(x, rows, columns), k).values);
    const expected = rowsOf(x, columns).map((row) =>
      Array.from(row.keys())
        .sort((a, c) => row[c]! - row[a]! || a - c)
        .slice(0, k),
    );
    expect([...ids]).toEqual(expected.flat());
    expect([...values]).toEqual(expected.flatMap((chosen, r) => chosen.map((c) => x[r * columns + c])));
  });

  it("topK ranks NaN last and stays in range", async () => {
    const x = Float32Array.of(Number.NaN, 1, Number.NaN, 2, Number.NaN, Number.NaN);
    const ids = await run((b) => b.ops.topK(b.ops.constant(x, 1, 6), 3).ids);
    expect([...ids.slice(0, 2)]).toEqual([3, 1]);
    expect(ids[2]).toBeLessThan(6);
  });

  it("columns and gatherRows copy", async () => {
    const x = normals(4 * 9, random);
    const part = await run((b) => b.ops.columns(b.ops.constant(x, 4, 9), 2, 7));
    expect([...part]).toEqual(rowsOf(x, 9).flatMap((row) => [...row.subarray(2, 7)]));
    const rows = await run((b) => b.ops.gatherRows(b.ops.constant(x, 4, 9), Int32Array.of(3, 0, 3)));
    expect([...rows]).toEqual([3, 0, 3].flatMap((r) => [...x.subarray(r * 9, r * 9 + 9)]));
  });

  it.each([
    [1, 1, 3],
    [3, 2, 10],
  ])("weightedSum n = %i, k = %i, %i columns", async (n, k, columns) => {
    const [y, w] = [normals(n * k * columns, random), normals(n * k, random)];
    const z = await run((b) => b.ops.weightedSum(b.ops.constant(y, n * k, columns), b.ops.constant(w, n, k)));
    const expected = Array.from({ length: n * columns }, (_, i) => {
      const [r, c] = [Math.floor(i / columns), i % columns];
      return sum(Array.from({ length: k }, (_, j) => w[r * k + j]! * y[(r * k + j) * columns + c]!));
    });
    expect(largestError(z, expected)).toBeLessThan(1e-6);
  });

  it("linear adds a bias; one quantization serves several weights", async () => {
    const weights = [int8Weight(6, 64), { ...int8Weight(10, 64), bias: normals(10, random) }];
    const x = normals(3 * 64, random);
    const uploaded = new Map([backend, plain].map((b) => [b, weights.map((w) => b.upload(w))]));
    const both = await run((b) => {
      const [first, second] = uploaded.get(b)!;
      const input = b.ops.constant(x, 3, 64);
      b.ops.linear(input, first!);
      return b.ops.linear(input, second!);
    });
    const alone = await run((b) => b.ops.linear(b.ops.constant(x, 3, 64), uploaded.get(b)![1]!));
    expect(both).toEqual(alone);
    for (const [owner, list] of uploaded) for (const weight of list) owner.free(weight);
  });

  it("embed takes rows of the table", async () => {
    const values = normals(5 * 12, random);
    const tables = new Map([backend, plain].map((b) => [b, b.upload(f32Weight(values, 5, 12))]));
    const rows = await run((b) => b.ops.embed(tables.get(b)!, Int32Array.of(4, 4, 0)));
    expect([...rows]).toEqual([4, 4, 0].flatMap((r) => [...values.subarray(r * 12, r * 12 + 12)]));
  });

  it.each([false, true])("expertLinear equals each expert's linear (x rows spread: %s)", async (spread) => {
    const [n, k, experts, out, columns] = [5, 2, 4, 7, 64];
    const stacked = int8Weight(out, columns, experts);
    const size = stacked.segments[0]!.blocks.length / experts;
    const alone = Array.from({ length: experts }, (_, e) => ({
      ...stacked,
      experts: 1,
      segments: [
        { ...stacked.segments[0]!, blocks: stacked.segments[0]!.blocks.slice(e * size, (e + 1) * size) },
      ],
    }));
    const x = normals((spread ? n * k : n) * columns, random);
    const scores = normals(n * experts, random);
    const uploaded = new Map([backend, plain].map((b) => [b, b.upload(stacked)]));
    const chosen = await run((b) => b.ops.topK(b.ops.constant(scores, n, experts), k).ids);
    const y = await run((b) => {
      const input = b.ops.constant(x, spread ? n * k : n, columns);
      return b.ops.expertLinear(
        input,
        uploaded.get(b)!,
        b.ops.topK(b.ops.constant(scores, n, experts), k).ids,
      );
    });
    const singles = alone.map((weight) => backend.upload(weight));
    for (let i = 0; i < n * k; i++) {
      const row = await evaluate(backend, () => {
        const input = backend.ops.constant(x, spread ? n * k : n, columns);
        const one = backend.ops.gatherRows(input, Int32Array.of(spread ? i : Math.floor(i / k)));
        return backend.ops.linear(one, singles[chosen[i]!]!);
      });
      expect(y.subarray(i * out, (i + 1) * out)).toEqual(row);
    }
  });

  describe("wrong arguments", () => {
    const x = new Float32Array(12);
    const cases: Record<string, (b: Backend) => unknown> = {
      "add [3, 4] + [2, 6]": ({ ops }) => ops.add(ops.constant(x, 3, 4), ops.constant(x, 2, 6)),
      "gate of unequal shapes": ({ ops }) => ops.gate(ops.constant(x, 3, 4), ops.constant(x, 4, 3), "silu"),
      "rmsNorm groups of 5": ({ ops }) => ops.rmsNorm(ops.constant(x, 1, 12), { epsilon: 1, group: 5 }),
      "rope with odd angles": ({ ops }) =>
        ops.rope(ops.constant(x, 4, 3), ops.constant(x, 4, 3), { headSize: 3, pairing: "halves" }),
      "topK beyond the columns": ({ ops }) => ops.topK(ops.constant(x, 3, 4), 5),
      "columns backwards": ({ ops }) => ops.columns(ops.constant(x, 3, 4), 2, 2),
      "gatherRows outside": ({ ops }) => ops.gatherRows(ops.constant(x, 3, 4), Int32Array.of(3)),
      "gatherRows negative": ({ ops }) => ops.gatherRows(ops.constant(x, 3, 4), Int32Array.of(-1)),
      "constant of another size": ({ ops }) => ops.constant(x, 3, 5),
      "linear of another width": (b) => b.ops.linear(b.ops.constant(x, 3, 4), b.upload(f32Weight(x, 2, 6))),
      "embed outside the table": (b) => b.ops.embed(b.upload(f32Weight(x, 2, 6)), Int32Array.of(2)),
      "f32 where ids belong": (b) =>
        b.ops.expertLinear(b.ops.constant(x, 3, 4), b.upload(f32Weight(x, 3, 4)), b.ops.constant(x, 3, 4)),
      "an unknown activation": ({ ops }) => ops.activate(ops.constant(x, 3, 4), "swish" as "silu"),
      "a softcap of 0": ({ ops }) => ops.softcap(ops.constant(x, 3, 4), 0),
    };
    it.each(Object.keys(cases))("%s", (name) => {
      expect(() => cases[name]!(backend)).toThrow(LowbitError);
    });
  });
});
