import {
  type Backend,
  floatToHalf,
  halfToFloat,
  type KvStore,
  type KvType,
  roundHalfEven,
  type TokenBatch,
} from "@lowbit/core";
import { type AttentionCase, attention, flat, type Matrix } from "./formulas.ts";
import { type Bench, evaluateOne, expect, expectNear, expectRefusal, numbers } from "./harness.ts";

interface Shape extends AttentionCase {
  readonly type: KvType;
  readonly pageTokens: number;
}

const base: Shape = {
  heads: 4,
  kvHeads: 2,
  keySize: 32,
  valueSize: 32,
  scale: 0.2,
  type: "f32",
  pageTokens: 8,
};

/** One sequence's part of a batch. */
interface Part {
  readonly sequence: number;
  readonly from: number;
  readonly to: number;
}

/** A sequence and what the cache should hold of it. */
class Sequence {
  readonly q: Matrix;
  readonly k: Matrix;
  readonly v: Matrix;

  constructor(shape: Shape, length: number, seed: number) {
    const rows = (width: number, s: number): number[][] =>
      Array.from({ length }, (_, r) => [...numbers(width, seed * 1000 + s * 100 + r, 2)]);
    this.q = rows(shape.heads * shape.keySize, 1);
    this.k = rows(shape.kvHeads * shape.keySize, 2);
    this.v = rows(shape.kvHeads * shape.valueSize, 3);
  }
}

/** A value as the cache keeps it. q8_0: blocks of 32 in steps of max/127, the step kept as f16. */
function stored(row: readonly number[], type: KvType): number[] {
  if (type === "f32") return [...row];
  if (type === "f16") return row.map((value) => halfToFloat(floatToHalf(value)));
  return row.map((value, i) => {
    const block = row.slice(i - (i % 32), i - (i % 32) + 32);
    const step = Math.fround(Math.max(...block.map(Math.abs)) / 127);
    return roundHalfEven(value / step) * halfToFloat(floatToHalf(step));
  });
}

/** Runs passes over sequences one after another and compares each with the formula over the whole sequence. */
async function run(
  backend: Backend,
  shape: Shape,
  sequences: readonly Sequence[],
  passes: readonly (readonly Part[])[],
): Promise<void> {
  const layer = 1;
  const perSequence = Math.ceil(Math.max(...sequences.map(({ q }) => q.length)) / shape.pageTokens);
  const pages = perSequence * sequences.length + 2;
  const kv = backend.kv({ ...shape, layers: 3, pages });
  // Interleaved and backwards: sequence s has pages that lie apart and fall.
  const tables = sequences.map((_, s) =>
    Int32Array.from({ length: perSequence }, (_, i) => pages - 1 - (i * sequences.length + s)),
  );
  for (const parts of passes) {
    const take = (from: (sequence: Sequence) => Matrix): Matrix =>
      parts.flatMap((part) => from(sequences[part.sequence]!).slice(part.from, part.to));
    const [q, k, v] = [take((s) => s.q), take((s) => s.k), take((s) => s.v)];
    const batch = batchOf(parts, tables);
    const values = await evaluateOne(backend, (ops) => {
      const tensor = (rows: Matrix) =>
        ops.constant(Float32Array.from(flat(rows)), rows.length, rows[0]?.length ?? 0);
      return ops.attention(tensor(q), tensor(k), tensor(v), { ...shape, kv, layer, batch });
    });
    const expected = parts.flatMap((part) => {
      const sequence = sequences[part.sequence]!;
      const keys = sequence.k.slice(0, part.to).map((row) => stored(row, shape.type));
      const held = sequence.v.slice(0, part.to).map((row) => stored(row, shape.type));
      return attention(sequence.q.slice(part.from, part.to), keys, held, shape);
    });
    // Scores of size up to 10 from f32 sums move weights by some 1e-6; values are below 2.
    expectNear(values, flat(expected), 2e-5);
  }
  backend.free(kv);
}

function batchOf(parts: readonly Part[], pages: readonly Int32Array[]): TokenBatch {
  const positions = parts.flatMap(({ from, to }) => Array.from({ length: to - from }, (_, i) => from + i));
  const sequences = parts.flatMap(({ sequence, from, to }) => new Array<number>(to - from).fill(sequence));
  return {
    tokens: new Int32Array(positions.length),
    positions: Int32Array.from(positions),
    sequences: Int32Array.from(sequences),
    pages,
  };
}

const whole = (length: number, sequence = 0): Part => ({ sequence, from: 0, to: length });

/** Attention over the paged cache. */
export function attentionCases({ check, backend }: Bench): void {
  const one = (id: string, change: Partial<Shape>, length = 21): void => {
    check(`attention: ${id}`, async () => {
      const shape = { ...base, ...change };
      const sequence = new Sequence(shape, length, 1);
      await run(backend(), shape, [sequence], [[whole(length)]]);
    });
  };
  one("a single token", {}, 1);
  one("grouped heads", {});
  one("as many key heads as heads", { kvHeads: 4 });
  one("one key head for all", { kvHeads: 1, heads: 6 });
  one("keys and values of other widths", { keySize: 24, valueSize: 40 });
  one("widths that are no multiple of four", { keySize: 6, valueSize: 10 });
  one("pages of one position", { pageTokens: 1 });
  one("pages larger than the sequence", { pageTokens: 64 });
  one("a window", { window: 5 });
  one("a window of one", { window: 1 });
  one("a window wider than the sequence", { window: 100 });
  one("a soft cap", { softcap: 3 });
  one("an encoder, which sees all of the batch", { causal: false });
  one("f16 keys and values", { type: "f16" });
  one("f16 of odd widths", { type: "f16", keySize: 6, valueSize: 10 });
  one("q8_0 keys and values", { type: "q8_0" });
  one("q8_0, wide heads, a window and a soft cap", { type: "q8_0", keySize: 64, window: 7, softcap: 5 });
  one("a longer prompt", { pageTokens: 32 }, 150);

  check("attention: a prompt in chunks, then single tokens", async () => {
    for (const type of ["f32", "f16"] as const) {
      const shape = { ...base, type };
      const sequence = new Sequence(shape, 45, 2);
      const cuts = [0, 17, 40, 41, 42, 45];
      const passes = cuts.slice(1).map((to, i) => [{ sequence: 0, from: cuts[i] ?? 0, to }]);
      await run(backend(), shape, [sequence], passes);
      await run(backend(), { ...shape, window: 9 }, [sequence], passes);
    }
  });

  check("attention: several sequences in a batch, at different positions", async () => {
    const sequences = [20, 9, 33].map((length, s) => new Sequence(base, length, 3 + s));
    await run(backend(), base, sequences, [
      [whole(12), whole(33, 2)],
      [whole(8, 1), { sequence: 0, from: 12, to: 19 }],
      [
        { sequence: 1, from: 8, to: 9 },
        { sequence: 0, from: 19, to: 20 },
      ],
    ]);
  });

  check("attention: positions may be written again", async () => {
    // A rolled back sequence goes on with other tokens over the same pages.
    const [first, second] = [new Sequence(base, 20, 6), new Sequence(base, 20, 7)];
    const kv = backend().kv({ ...base, layers: 1, pages: 4 });
    const table = [Int32Array.of(2, 0, 3)];
    const pass = async (sequence: Sequence, from: number, to: number): Promise<Float32Array> =>
      evaluateOne(backend(), (ops) => {
        const tensor = (rows: Matrix) =>
          ops.constant(Float32Array.from(flat(rows.slice(from, to))), to - from, rows[0]?.length ?? 0);
        const batch = batchOf([{ sequence: 0, from, to }], table);
        return ops.attention(tensor(sequence.q), tensor(sequence.k), tensor(sequence.v), {
          ...base,
          kv,
          layer: 0,
          batch,
        });
      });
    await pass(first, 0, 20);
    const values = await pass(second, 10, 20);
    const join = (a: Matrix, b: Matrix): Matrix => [...a.slice(0, 10), ...b.slice(10)];
    const keys = join(first.k, second.k);
    const expected = attention(second.q.slice(10), keys, join(first.v, second.v), base);
    expectNear(values, flat(expected), 2e-5);
    backend().free(kv);
  });

  check("attention: layers do not share their cache", async () => {
    const kv = backend().kv({ ...base, layers: 2, pages: 1 });
    const row = (size: number, seed: number) => numbers(size, seed);
    const batch = batchOf([{ sequence: 0, from: 0, to: 1 }], [Int32Array.of(0)]);
    const next = batchOf([{ sequence: 0, from: 1, to: 2 }], [Int32Array.of(0)]);
    const values = await evaluateOne(backend(), (ops) => {
      const q = ops.constant(row(128, 1), 1, 128);
      const at = (b: TokenBatch, layer: number, seed: number) =>
        ops.attention(q, ops.constant(row(64, seed), 1, 64), ops.constant(row(64, seed + 1), 1, 64), {
          ...base,
          kv,
          layer,
          batch: b,
        });
      at(batch, 0, 10);
      at(batch, 1, 20);
      return at(next, 0, 30);
    });
    const keys = [[...row(64, 10)], [...row(64, 30)]];
    const held = [[...row(64, 11)], [...row(64, 31)]];
    expectNear(values, flat(attention([[...row(128, 1)]], keys, held, base)), 2e-5);
    backend().free(kv);
  });

  check("attention: a copied page is as good as the one that was written", async () => {
    const { ops } = backend();
    const spec = { ...base, layers: 2, pages: 4 };
    const kv = backend().kv(spec);
    const rows = (count: number, columns: number) =>
      ops.constant(
        Float32Array.from({ length: count * columns }, (_, i) => Math.sin(i * 0.7)),
        count,
        columns,
      );
    const attend = async (part: Part, table: Int32Array, layer: number): Promise<Float32Array> => {
      const count = part.to - part.from;
      const batch = batchOf([part], [table]);
      return evaluateOne(backend(), () =>
        ops.attention(rows(count, 128), rows(count, 64), rows(count, 64), { ...base, kv, layer, batch }),
      );
    };
    for (const layer of [0, 1]) await attend(whole(3), Int32Array.of(1), layer);
    backend().copyPage(kv, 1, 3);
    const next: Part = { sequence: 0, from: 3, to: 4 };
    for (const layer of [0, 1]) {
      const copied = await attend(next, Int32Array.of(3), layer);
      expect(copied).toEqual(await attend(next, Int32Array.of(1), layer));
      expect(copied).not.toEqual(await attend(next, Int32Array.of(0), layer));
    }
    for (const [from, to] of [
      [0, 4],
      [-1, 0],
      [0.5, 1],
    ] as const) {
      expectRefusal(() => backend().copyPage(kv, from, to));
    }
    backend().free(kv);
    expectRefusal(() => backend().copyPage(kv, 0, 1));
  });

  refusals({ check, backend });
}

function refusals({ check, backend }: Pick<Bench, "check" | "backend">): void {
  check("attention: wrong shapes and batches are refused", async () => {
    const { ops } = backend();
    const kv = backend().kv({ ...base, layers: 2, pages: 2 });
    const good = batchOf([whole(3)], [Int32Array.of(0, 1)]);
    const x = (columns: number, rows = 3) => ops.constant(new Float32Array(rows * columns), rows, columns);
    const attend = (
      change: object,
      batch: TokenBatch = good,
      q = x(128),
      k = x(64),
      v = x(64),
      store: KvStore = kv,
    ) => ops.attention(q, k, v, { ...base, kv: store, layer: 0, batch, ...change });
    expect(attend({}).columns).toBe(128);
    for (const change of [
      { layer: 2 },
      { layer: -1 },
      { heads: 3 },
      { heads: 8 },
      { window: 0 },
      { softcap: 0 },
    ]) {
      expectRefusal(() => attend(change));
    }
    expectRefusal(() => attend({}, good, x(64)));
    expectRefusal(() => attend({}, good, x(128), x(128)));
    expectRefusal(() => attend({}, good, x(128), x(64), x(32)));
    expectRefusal(() => attend({}, good, x(128, 2)));
    expectRefusal(() => attend({}, good, x(128), x(64), x(64), { ...kv }));
    const ids = (...values: number[]) => Int32Array.from(values);
    const batches: Partial<TokenBatch>[] = [
      { positions: ids(0, 1) },
      { positions: ids(0, 2, 3) },
      { positions: ids(1, 0, 2) },
      { positions: ids(-1, 0, 1) },
      { positions: ids(14, 15, 16) },
      { sequences: ids(0, 0) },
      { sequences: ids(0, 1, 0) },
      { sequences: ids(0, 0, 1) },
      { pages: [ids(2, 1)] },
      { pages: [ids(-1, 1)] },
      { pages: [ids()] },
      { pages: [] },
    ];
    for (const change of batches) expectRefusal(() => attend({}, { ...good, ...change }));
    await backend().submit();
    backend().free(kv);
    expectRefusal(() => attend({}));
    await backend().submit();
  });

  check("kv: what cannot be is refused, and sizes are told beforehand", () => {
    const spec = { ...base, layers: 2, pages: 4 };
    const used = backend().memory().usedBytes;
    const kv = backend().kv(spec);
    expect(kv.bytes).toBe(backend().kvBytes(spec));
    expect(backend().memory().usedBytes - used).toBeGreaterThanOrEqual(kv.bytes);
    expect(kv).toMatchObject({
      layers: 2,
      kvHeads: 2,
      keySize: 32,
      valueSize: 32,
      pageTokens: 8,
      pages: 4,
      type: "f32",
    });
    backend().free(kv);
    expect(backend().memory().usedBytes).toBe(used);
    for (const change of [
      { pageTokens: 12 },
      { pages: 0 },
      { layers: 0 },
      { keySize: 0.5 },
      { type: "q8_0" as const, keySize: 24 },
      { type: "f8" as KvType },
    ]) {
      expectRefusal(() => backend().kv({ ...spec, ...change }));
      expectRefusal(() => backend().kvBytes({ ...spec, ...change }));
    }
  });

  for (const type of ["f16", "q8_0"] as const) {
    check(`attention: values that ${type} cannot hold are an error, not infinities`, async () => {
      const kv = backend().kv({ ...base, type, layers: 1, pages: 1 });
      const batch = batchOf([whole(1)], [Int32Array.of(0)]);
      const large = new Float32Array(64).fill(1e5);
      const pass = async (): Promise<void> => {
        const { ops } = backend();
        const [q, k, v] = [new Float32Array(128), large, new Float32Array(64)];
        ops.attention(ops.constant(q, 1, 128), ops.constant(k, 1, 64), ops.constant(v, 1, 64), {
          ...base,
          kv,
          layer: 0,
          batch,
        });
        await backend().submit();
      };
      await expect(pass()).rejects.toMatchObject({ code: "bad-argument" });
      // The next pass is not hurt.
      const values = await evaluateOne(backend(), (ops) => ops.constant(Float32Array.of(7), 1, 1));
      expect([...values]).toEqual([7]);
      backend().free(kv);
    });
  }
}
