import {
  type AttentionOptions,
  type Backend,
  floatToHalf,
  halfToFloat,
  type KvSpec,
  type KvStore,
  type KvType,
  LowbitError,
  roundHalfEven,
  type TokenBatch,
} from "@lowbit/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  backendOf,
  concat,
  evaluate,
  largestError,
  normals,
  randomOf,
  sameBits,
  variants,
} from "../test/support.ts";

const random = randomOf(99);

/** What a cache of this type keeps of a head's vector. */
function stored(x: Float32Array, type: KvType): number[] {
  if (type === "f32") return [...x];
  if (type === "f16") return Array.from(x, (v) => halfToFloat(floatToHalf(v)));
  const result: number[] = [];
  for (let at = 0; at < x.length; at += 32) {
    const block = x.subarray(at, at + 32);
    const step = Math.fround(Math.max(...block.map(Math.abs)) / 127);
    const inverse = step > 0 ? Math.fround(1 / step) : 0;
    const scale = halfToFloat(floatToHalf(step));
    result.push(...Array.from(block, (v) => scale * roundHalfEven(Math.fround(v * inverse))));
  }
  return result;
}

/** One sequence's keys, values and queries. */
interface Sequence {
  readonly length: number;
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

type Shape = Pick<KvSpec, "kvHeads" | "keySize" | "valueSize"> & { readonly heads: number };
type Mask = Pick<AttentionOptions, "scale" | "window" | "softcap" | "causal">;

function sequenceOf(length: number, { heads, kvHeads, keySize, valueSize }: Shape): Sequence {
  return {
    length,
    q: normals(length * heads * keySize, random, 2),
    k: normals(length * kvHeads * keySize, random),
    v: normals(length * kvHeads * valueSize, random),
  };
}

/** Attention by the formula, in f64. */
function naive({ length, q, k, v }: Sequence, shape: Shape, type: KvType, mask: Mask): Float64Array {
  const { heads, kvHeads, keySize, valueSize } = shape;
  const keep = (x: Float32Array, size: number): Float64Array =>
    Float64Array.from(
      Array.from({ length: x.length / size }, (_, i) =>
        stored(x.subarray(i * size, i * size + size), type),
      ).flat(),
    );
  const [keys, values] = [keep(k, keySize), keep(v, valueSize)];
  const out = new Float64Array(length * heads * valueSize);
  for (let h = 0; h < heads; h++) {
    const shared = Math.floor(h / (heads / kvHeads));
    for (let row = 0; row < length; row++) {
      const first = mask.window === undefined ? 0 : Math.max(0, row - mask.window + 1);
      const last = mask.causal === false ? length - 1 : row;
      const scores: number[] = [];
      for (let p = first; p <= last; p++) {
        let score = 0;
        for (let i = 0; i < keySize; i++) {
          score += q[(row * heads + h) * keySize + i]! * keys[(p * kvHeads + shared) * keySize + i]!;
        }
        score *= mask.scale;
        scores.push(mask.softcap === undefined ? score : mask.softcap * Math.tanh(score / mask.softcap));
      }
      const top = Math.max(...scores);
      const total = scores.reduce((sum, score) => sum + Math.exp(score - top), 0);
      scores.forEach((score, i) => {
        const weight = Math.exp(score - top) / total;
        for (let c = 0; c < valueSize; c++) {
          out[(row * heads + h) * valueSize + c]! +=
            weight * values[((first + i) * kvHeads + shared) * valueSize + c]!;
        }
      });
    }
  }
  return out;
}

/** A token batch of chunks [from, to) of sequences. */
function batchOf(
  chunks: readonly (readonly [sequence: number, from: number, to: number])[],
  pages: Int32Array[],
): TokenBatch {
  const positions = chunks.flatMap(([, from, to]) => Array.from({ length: to - from }, (_, i) => from + i));
  const sequences = chunks.flatMap(([sequence, from, to]) => Array(to - from).fill(sequence));
  return {
    tokens: new Int32Array(positions.length),
    positions: Int32Array.from(positions),
    sequences: Int32Array.from(sequences),
    pages,
  };
}

const rows = (x: Float32Array, width: number, from: number, to: number): Float32Array =>
  x.subarray(from * width, to * width);

describe.each(variants)("attention (%s)", (variant) => {
  let backend: Backend;
  beforeAll(async () => {
    backend = await backendOf(variant);
  });
  afterAll(() => backend.dispose());

  /** Runs the chunks one after the other, each a pass of one or several sequences; returns each sequence's whole output. */
  async function run(
    sequences: readonly Sequence[],
    shape: Shape,
    kv: KvStore,
    pages: Int32Array[],
    passes: readonly (readonly (readonly [sequence: number, from: number, to: number])[])[],
    mask: Mask,
    layer = 0,
  ): Promise<Float32Array[]> {
    const { heads, kvHeads, keySize, valueSize } = shape;
    const parts = sequences.map((): Float32Array[] => []);
    for (const pass of passes) {
      const batch = batchOf(pass, pages);
      const n = batch.tokens.length;
      const take = (name: "q" | "k" | "v", width: number): Float32Array =>
        concat(pass.map(([s, from, to]) => rows(sequences[s]![name], width, from, to)));
      const out = await evaluate(backend, () => {
        const { ops } = backend;
        return ops.attention(
          ops.constant(take("q", heads * keySize), n, heads * keySize),
          ops.constant(take("k", kvHeads * keySize), n, kvHeads * keySize),
          ops.constant(take("v", kvHeads * valueSize), n, kvHeads * valueSize),
          { kv, layer, batch, heads, ...mask },
        );
      });
      let at = 0;
      for (const [s, from, to] of pass) {
        parts[s]!.push(rows(out, heads * valueSize, at, at + to - from).slice());
        at += to - from;
      }
    }
    return parts.map(concat);
  }

  /** Pages of a pool in mixed order, dealt to sequences. */
  function deal(counts: readonly number[]): Int32Array[] {
    const pool = Array.from({ length: counts.reduce((a, b) => a + b, 0) + 2 }, (_, i) => i);
    pool.sort(() => random() - 0.5);
    return counts.map((count) => Int32Array.from(pool.splice(0, count)));
  }

  const shapes: Record<string, Shape> = {
    "1 head of 64": { heads: 1, kvHeads: 1, keySize: 64, valueSize: 64 },
    "6 heads over 2 of 32": { heads: 6, kvHeads: 2, keySize: 32, valueSize: 32 },
    "7 heads over 1, keys 64, values 96": { heads: 7, kvHeads: 1, keySize: 64, valueSize: 96 },
    "odd sizes 10 and 7": { heads: 4, kvHeads: 2, keySize: 10, valueSize: 7 },
    "40 heads over 1 of 8": { heads: 40, kvHeads: 1, keySize: 8, valueSize: 8 },
  };
  const masks: Record<string, Omit<Mask, "scale">> = {
    causal: {},
    "window 5": { window: 5 },
    "window 40": { window: 40 },
    "softcap 3": { softcap: 3 },
    "not causal": { causal: false },
  };

  for (const [shapeName, shape] of Object.entries(shapes)) {
    const types = (["f32", "f16", "q8_0"] as const).filter(
      (type) => type !== "q8_0" || (shape.keySize % 32 === 0 && shape.valueSize % 32 === 0),
    );
    it.each(types)(`${shapeName}, %s: the formula, for all masks and page sizes`, async (type) => {
      const sequence = sequenceOf(75, shape);
      for (const [maskName, rest] of Object.entries(masks)) {
        const mask = { scale: 1 / Math.sqrt(shape.keySize), ...rest };
        const expected = naive(sequence, shape, type, mask);
        let first: Float32Array | undefined;
        for (const pageTokens of [1, 8, 32, 64]) {
          const pages = deal([Math.ceil(75 / pageTokens)]);
          const kv = backend.kv({ ...shape, layers: 2, pageTokens, pages: pages[0]!.length + 2, type });
          const [out] = await run([sequence], shape, kv, pages, [[[0, 0, 75]]], mask, 1);
          expect(largestError(out!, expected), `${maskName}, pages of ${pageTokens}`).toBeLessThan(5e-6);
          first ??= out;
          expect(sameBits(out!, first!), "the page size does not change a bit").toBe(true);
          backend.free(kv);
        }
      }
    });
  }

  it.each(["f32", "f16", "q8_0"] as const)(
    "chunks, single tokens and mixed batches give the same bits (%s)",
    async (type) => {
      const shape = { heads: 6, kvHeads: 2, keySize: 64, valueSize: 64 };
      const mask = { scale: 0.125, window: 50 };
      const sequences = [sequenceOf(70, shape), sequenceOf(40, shape), sequenceOf(33, shape)];
      const kv = backend.kv({ ...shape, layers: 1, pageTokens: 16, pages: 16, type });
      const pages = deal([5, 3, 3]);
      const whole: Float32Array[] = [];
      for (const [s, { length }] of sequences.entries()) {
        whole.push((await run(sequences, shape, kv, pages, [[[s, 0, length]]], mask))[s]!);
      }
      const mixed = await run(
        sequences,
        shape,
        kv,
        deal([5, 3, 3]),
        [
          [
            [1, 0, 30],
            [0, 0, 41],
          ],
          [
            [2, 0, 33],
            [0, 41, 69],
            [1, 30, 31],
          ],
          [
            [1, 31, 40],
            [0, 69, 70],
          ],
        ],
        mask,
      );
      expect(mixed.map((part, s) => sameBits(part, whole[s]!))).toEqual([true, true, true]);
      const single = Array.from({ length: 70 }, (_, p) => [[0, p, p + 1]] as const);
      const [grown] = await run(sequences, shape, kv, pages, single, mask);
      expect(sameBits(grown!, whole[0]!)).toBe(true);
      backend.free(kv);
    },
  );

  it("sequences share the pages of a common prefix", async () => {
    const shape = { heads: 2, kvHeads: 1, keySize: 32, valueSize: 32 };
    const mask = { scale: 0.2 };
    const sequence = sequenceOf(24, shape);
    const kv = backend.kv({ ...shape, layers: 1, pageTokens: 8, pages: 8, type: "f16" });
    const own = [Int32Array.of(2, 5, 0)];
    const [whole] = await run([sequence], shape, kv, own, [[[0, 0, 24]]], mask);
    const [tail] = await run([sequence], shape, kv, [Int32Array.of(2, 5, 7)], [[[0, 16, 24]]], mask);
    expect(sameBits(tail!, whole!.subarray(16 * 64))).toBe(true);
  });

  it("every layer shares the batch's page tables within a pass", async () => {
    const shape = { heads: 2, kvHeads: 1, keySize: 8, valueSize: 8 };
    const kv = backend.kv({ ...shape, layers: 3, pageTokens: 8, pages: 4, type: "f32" });
    const batch = batchOf([[0, 0, 3]], [Int32Array.of(1)]);
    const x = normals(3 * 16, random);
    const one = await evaluate(backend, () => {
      const { ops } = backend;
      const q = ops.constant(x, 3, 16);
      const k = ops.columns(q, 0, 8);
      const outs = [0, 1, 2].map((layer) => ops.attention(q, k, k, { kv, layer, batch, heads: 2, scale: 1 }));
      return ops.add(ops.add(outs[0]!, ops.scale(outs[1]!, -1)), ops.add(outs[2]!, ops.scale(outs[1]!, -1)));
    });
    expect(one.every((value) => value === 0)).toBe(true);
  });

  it.each(["f16", "q8_0"] as const)(
    "a key beyond the range of %s is an error, not a wrong number",
    async (type) => {
      const kv = backend.kv({
        layers: 1,
        kvHeads: 1,
        keySize: 32,
        valueSize: 32,
        pageTokens: 8,
        pages: 1,
        type,
      });
      const batch = batchOf([[0, 0, 1]], [Int32Array.of(0)]);
      for (const bad of [70_000, Number.NaN, Number.NEGATIVE_INFINITY]) {
        const x = new Float32Array(32).fill(1);
        x[13] = bad;
        const attempt = evaluate(backend, () => {
          const input = backend.ops.constant(x, 1, 32);
          return backend.ops.attention(input, input, input, { kv, layer: 0, batch, heads: 1, scale: 1 });
        });
        await expect(attempt).rejects.toMatchObject({ code: "bad-argument", reason: "overflow" });
      }
      const after = await evaluate(backend, () => backend.ops.constant(new Float32Array([1]), 1, 1));
      expect([...after]).toEqual([1]);
    },
  );

  describe("wrong batches", () => {
    const spec = {
      layers: 1,
      kvHeads: 1,
      keySize: 8,
      valueSize: 8,
      pageTokens: 4,
      pages: 4,
      type: "f32",
    } as const;
    const good = (): { -readonly [key in keyof TokenBatch]: TokenBatch[key] } =>
      batchOf([[0, 2, 5]], [Int32Array.of(3, 1)]);
    const cases: Record<string, () => Partial<TokenBatch>> = {
      "a page outside the cache": () => ({ pages: [Int32Array.of(3, 4)] }),
      "a negative page": () => ({ pages: [Int32Array.of(-1, 1)] }),
      "a table that is too short": () => ({ pages: [Int32Array.of(3)] }),
      "no table": () => ({ sequences: Int32Array.of(1, 1, 1) }),
      "a gap in the positions": () => ({ positions: Int32Array.of(2, 3, 5) }),
      "a negative position": () => ({ positions: Int32Array.of(-1, 0, 1) }),
      "a sequence in two pieces": () => ({
        sequences: Int32Array.of(0, 1, 0),
        positions: Int32Array.of(2, 0, 3),
        pages: [Int32Array.of(3, 1), Int32Array.of(0)],
      }),
      "lengths that differ": () => ({ positions: Int32Array.of(2, 3) }),
    };
    it.each(Object.keys(cases))("%s", (name) => {
      const kv = backend.kv(spec);
      const x = backend.ops.constant(new Float32Array(24), 3, 8);
      const attend = (batch: TokenBatch): unknown =>
        backend.ops.attention(x, x, x, { kv, layer: 0, batch, heads: 1, scale: 1 });
      expect(() => attend({ ...good(), ...cases[name]!() })).toThrow(LowbitError);
      expect(() => attend(good())).not.toThrow();
      backend.free(kv);
    });
  });

  it("a q8_0 cache of head size 48 says to use f16", () => {
    const spec = {
      layers: 1,
      kvHeads: 1,
      keySize: 48,
      valueSize: 48,
      pageTokens: 4,
      pages: 4,
      type: "q8_0",
    } as const;
    expect(() => backend.kv(spec)).toThrow(/f16/);
    expect(() => backend.kvBytes({ ...spec, type: "f16", pageTokens: 6 })).toThrow(/power of two/);
    expect(backend.kvBytes({ ...spec, type: "f16" })).toBe(4 * 4 * 96 * 2);
  });
});
