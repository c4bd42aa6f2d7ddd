import {
  halfToFloat,
  type KeyTurn,
  type KvSpec,
  type KvStore,
  type KvType,
  kvPositionBytes,
} from "@lowbit/core";
import { type Bench, evaluateOne, expect, expectNear, expectRefusal, numbers } from "./harness.ts";

const heads = 4;
const spec = (type: KvType): KvSpec => {
  const sizes = type === "q8_0" ? { keySize: 64, valueSize: 32 } : { keySize: 6, valueSize: 10 };
  return { layers: 2, kvHeads: 2, ...sizes, pageTokens: 4, pages: 3, type };
};

/** Keys (and values) of a layer: rows of [kvHeads · size]. */
function rows(kv: KvSpec, layer: number, values: boolean, count: number): Float32Array {
  const size = kv.kvHeads * (values ? kv.valueSize : kv.keySize);
  return numbers(count * size, 10 * layer + (values ? 1 : 2), 3);
}

/** Writes `count` positions of a sequence with this page table, from the first, in both layers. */
async function fill(bench: Bench, kv: KvStore, table: Int32Array, count: number): Promise<void> {
  const positions = Int32Array.from({ length: count }, (_, i) => i);
  const batch = {
    tokens: new Int32Array(count),
    positions,
    sequences: new Int32Array(count),
    pages: [table],
  };
  for (let layer = 0; layer < kv.layers; layer++) {
    await evaluateOne(bench.backend(), (ops) =>
      ops.attention(
        ops.constant(numbers(count * heads * kv.keySize, 5), count, heads * kv.keySize),
        ops.constant(rows(kv, layer, false, count), count, kv.kvHeads * kv.keySize),
        ops.constant(rows(kv, layer, true, count), count, kv.kvHeads * kv.valueSize),
        { kv, layer, batch, heads, scale: 0.3 },
      ),
    );
  }
}

/** What the token at position `at` attends to, in each layer. */
async function attend(bench: Bench, kv: KvStore, table: Int32Array, at: number): Promise<Float32Array[]> {
  const batch = {
    tokens: Int32Array.of(0),
    positions: Int32Array.of(at),
    sequences: Int32Array.of(0),
    pages: [table],
  };
  const values: Float32Array[] = [];
  for (let layer = 0; layer < kv.layers; layer++) {
    const row = (columns: number, seed: number) => numbers(columns, seed);
    values.push(
      await evaluateOne(bench.backend(), (ops) =>
        ops.attention(
          ops.constant(row(heads * kv.keySize, 7), 1, heads * kv.keySize),
          ops.constant(row(kv.kvHeads * kv.keySize, 8), 1, kv.kvHeads * kv.keySize),
          ops.constant(row(kv.kvHeads * kv.valueSize, 9), 1, kv.kvHeads * kv.valueSize),
          { kv, layer, batch, heads, scale: 0.3 },
        ),
      ),
    );
  }
  return values;
}

/** The portable form read by its definition: keys and values of each layer as rows of [kvHeads · size], and the largest scale. */
function decode(kv: KvSpec, bytes: Uint8Array, count: number): { layers: Float32Array[][]; step: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  let step = 0;
  const part = (size: number): Float32Array => {
    const values = new Float32Array(count * kv.kvHeads * size);
    for (let head = 0; head < kv.kvHeads; head++) {
      for (let position = 0; position < count; position++) {
        for (let i = 0; i < size; i++) {
          const to = (position * kv.kvHeads + head) * size + i;
          if (kv.type === "f32") values[to] = view.getFloat32(at, true);
          else if (kv.type === "f16") values[to] = halfToFloat(view.getUint16(at, true));
          else values[to] = view.getInt8(at);
          at += kv.type === "f32" ? 4 : kv.type === "f16" ? 2 : 1;
        }
      }
    }
    return values;
  };
  const scaled = (values: Float32Array, size: number): void => {
    for (let head = 0; head < kv.kvHeads; head++) {
      for (let position = 0; position < count; position++) {
        for (let i = 0; i < size; i++) {
          const scale = halfToFloat(view.getUint16(at, true));
          step = Math.max(step, scale);
          values[(position * kv.kvHeads + head) * size + i]! *= scale;
          if (i % 32 === 31) at += 2;
        }
      }
    }
  };
  const layers: Float32Array[][] = [];
  for (let layer = 0; layer < kv.layers; layer++) {
    const [keys, values] = [part(kv.keySize), part(kv.valueSize)];
    if (kv.type === "q8_0") {
      scaled(keys, kv.keySize);
      scaled(values, kv.valueSize);
    }
    layers.push([keys, values]);
  }
  expect(at).toBe(bytes.length);
  return { layers, step };
}

/** Angles of a turn by `by` positions, for the leading `dimensions`. */
function turn(by: number, dimensions: number, pairing: KeyTurn["pairing"]): KeyTurn {
  const angles = new Float32Array(dimensions);
  for (let i = 0; i < dimensions; i += 2) {
    const angle = by * 3 ** (-i / dimensions);
    angles.set([Math.cos(angle), Math.sin(angle)], i);
  }
  return { angles, pairing };
}

/** Each head's keys turned, in f64. */
function turned(row: Float32Array, kv: KvSpec, { angles, pairing }: KeyTurn): number[] {
  const out = [...row];
  for (let head = 0; head < row.length; head += kv.keySize) {
    for (let i = 0; i < angles.length / 2; i++) {
      const a = head + (pairing === "adjacent" ? 2 * i : i);
      const b = pairing === "adjacent" ? a + 1 : a + angles.length / 2;
      out[a] = row[a]! * angles[2 * i]! - row[b]! * angles[2 * i + 1]!;
      out[b] = row[a]! * angles[2 * i + 1]! + row[b]! * angles[2 * i]!;
    }
  }
  return out;
}

/** Keys and values of some positions of a table, by layer, as rows; and the largest step of q8_0. */
async function positions(
  { backend }: Bench,
  kv: KvStore,
  table: Int32Array,
  length: number,
): Promise<{ rows: Float32Array[][][]; step: number }> {
  const found: Float32Array[][][] = [];
  let largestStep = 0;
  for (let first = 0; first < length; first += kv.pageTokens) {
    const count = Math.min(kv.pageTokens, length - first);
    const bytes = await backend().readPage(kv, table[first / kv.pageTokens]!, count);
    const { layers, step } = decode(kv, bytes, count);
    largestStep = Math.max(largestStep, step);
    for (let i = 0; i < count; i++) {
      found.push(
        layers.map((parts) =>
          parts.map((values) => values.slice((i * values.length) / count, ((i + 1) * values.length) / count)),
        ),
      );
    }
  }
  return { rows: found, step: largestStep };
}

/** Pages read out of the cache and put back. */
export function pageCases(bench: Bench): void {
  const { check, backend } = bench;
  const table = Int32Array.of(2, 0);

  for (const type of ["f32", "f16", "q8_0"] as const) {
    check(`pages: ${type} is read in the portable form`, async () => {
      const kv = backend().kv(spec(type));
      await fill(bench, kv, table, 7);
      for (const [page, first, count] of [
        [2, 0, 4],
        [2, 0, 2],
        [0, 4, 3],
      ] as const) {
        const bytes = await backend().readPage(kv, page, count);
        expect(bytes.length).toBe(count * kvPositionBytes(kv));
        const { layers, step } = decode(kv, bytes, count);
        // Half a step, and what the scale's rounding to f16 does to 127 of it: 127 · 2^-11 steps.
        const bound = { f32: 0, f16: 2 ** -10, q8_0: 0.57 * step }[type];
        for (const [layer, parts] of layers.entries()) {
          for (const [i, size] of [kv.keySize, kv.valueSize].entries()) {
            const width = kv.kvHeads * size;
            const wanted = rows(kv, layer, i === 1, 7).subarray(first * width, (first + count) * width);
            expectNear(parts[i]!, wanted, bound);
          }
        }
      }
      backend().free(kv);
    });

    check(`pages: ${type} that was put back is as good as what was written`, async () => {
      const [kv, other] = [backend().kv(spec(type)), backend().kv(spec(type))];
      await fill(bench, kv, table, 7);
      const moved = Int32Array.of(1, 2);
      for (const [i, count] of [4, 3].entries()) {
        const bytes = await backend().readPage(kv, table[i]!, count);
        const odd = new Uint8Array(bytes.length + 1);
        odd.set(bytes, 1);
        backend().writePage(other, moved[i]!, count, odd.subarray(1));
        odd.fill(0);
        expect(await backend().readPage(other, moved[i]!, count)).toEqual(bytes);
      }
      expect(await attend(bench, other, moved, 7)).toEqual(await attend(bench, kv, table, 7));
      backend().free(kv);
      backend().free(other);
    });
  }

  const places: readonly (readonly [string, Int32Array])[] = [
    ["within their pages", table],
    ["to other pages", Int32Array.of(2, 1)],
  ];
  for (const type of ["f32", "f16", "q8_0"] as const) {
    for (const [where, target] of places) {
      check(`positions: ${type} move ${where}, keys turned, values as they are`, async () => {
        const kv = backend().kv(spec(type));
        await fill(bench, kv, table, 8);
        const before = await positions(bench, kv, table, 8);
        // The first two stay where they are, in a page that both tables have.
        const turns = [turn(-3, kv.keySize, "halves"), turn(-3, kv.keySize - 2, "adjacent")];
        backend().movePositions(kv, { source: table, target, from: 5, to: 2, count: 3, turns });
        const after = await positions(bench, kv, target, 5);
        // The kernels turn in f32; f16 and q8_0 round once more, by half a step of the largest value.
        const bound = { f32: 1e-6, f16: 2 ** -9, q8_0: 0.57 * after.step + 1e-6 }[type];
        for (const [position, layers] of after.rows.entries()) {
          for (const [layer, [keys, values]] of layers.entries()) {
            const [oldKeys, oldValues] = before.rows[position < 2 ? position : position + 3]![layer]!;
            expect(values).toEqual(oldValues);
            if (position < 2) expect(keys).toEqual(oldKeys);
            else expectNear(keys!, turned(oldKeys!, kv, turns[layer]!), bound);
          }
        }
        backend().free(kv);
      });
    }
  }

  check("positions: f32 keys that moved are what they would be there, within 1e-5", async () => {
    const kv = backend().kv({ ...spec("f32"), layers: 1, pages: 512, keySize: 64, valueSize: 32 });
    const [from, to, count] = [1501, 3, 500];
    const all = Int32Array.from({ length: 512 }, (_, i) => 511 - i);
    const width = kv.kvHeads * kv.keySize;
    const plain = numbers(count * width, 4, 3);
    const at = (position: number): Float32Array => {
      const rows = new Float32Array(count * width);
      for (let i = 0; i < count; i++) {
        rows.set(
          turned(plain.subarray(i * width, (i + 1) * width), kv, turn(position + i, 64, "halves")),
          i * width,
        );
      }
      return rows;
    };
    const write = async (position: number): Promise<void> => {
      const ids = new Int32Array(count);
      const batch = { tokens: ids, positions: ids.map((_, i) => position + i), sequences: ids, pages: [all] };
      await evaluateOne(backend(), (ops) =>
        ops.attention(
          ops.constant(new Float32Array(count * heads * 64), count, heads * 64),
          ops.constant(at(position), count, width),
          ops.constant(new Float32Array(count * kv.kvHeads * 32), count, kv.kvHeads * 32),
          { kv, layer: 0, batch, heads, scale: 0.3, window: 1 },
        ),
      );
    };
    await write(from);
    backend().movePositions(kv, {
      source: all,
      target: all,
      from,
      to,
      count,
      turns: [turn(to - from, 64, "halves")],
    });
    const moved = (await positions(bench, kv, all, to + count)).rows.slice(to).map(([layer]) => layer![0]!);
    await write(to);
    const fresh = (await positions(bench, kv, all, to + count)).rows.slice(to).map(([layer]) => layer![0]!);
    for (const [i, keys] of moved.entries()) expectNear(keys, fresh[i]!, 1e-5);
    backend().free(kv);
  });

  check("positions: a move that cannot be is refused", async () => {
    const kv = backend().kv(spec("f16"));
    await fill(bench, kv, table, 8);
    const turns = [turn(-3, 6, "halves"), turn(-3, 6, "halves")];
    const move = { source: table, target: table, from: 5, to: 2, count: 3, turns };
    for (const change of [
      { to: 5 },
      { to: 6 },
      { to: -1 },
      { from: 5.5 },
      { count: 4 },
      { count: -1 },
      { target: Int32Array.of(2) },
      { source: Int32Array.of(2, 3) },
      { turns: turns.slice(1) },
      { turns: [turns[0]!, turn(-3, 8, "halves")] },
      { turns: [turns[0]!, { angles: new Float32Array(3), pairing: "halves" as const }] },
    ]) {
      expectRefusal(() => backend().movePositions(kv, { ...move, ...change }));
    }
    const tooLarge = { angles: Float32Array.of(5e4, 0, 5e4, 0, 5e4, 0), pairing: "halves" as const };
    expectRefusal(() => backend().movePositions(kv, { ...move, turns: [turns[0]!, tooLarge] }));
    backend().movePositions(kv, { ...move, count: 0 });
    backend().free(kv);
    expectRefusal(() => backend().movePositions(kv, move));
  });

  check("pages: what is not there is refused", async () => {
    const kv = backend().kv(spec("f32"));
    const bytes = await backend().readPage(kv, 0, 2);
    for (const [page, count] of [
      [-1, 1],
      [3, 1],
      [0.5, 1],
      [0, 0],
      [0, 5],
      [0, 1.5],
    ] as const) {
      await expect(backend().readPage(kv, page, count)).rejects.toMatchObject({ code: "bad-argument" });
      expectRefusal(() => backend().writePage(kv, page, count, bytes));
    }
    expectRefusal(() => backend().writePage(kv, 0, 2, bytes.subarray(1)));
    expectRefusal(() => backend().writePage(kv, 0, 3, bytes));
    backend().free(kv);
    await expect(backend().readPage(kv, 0, 1)).rejects.toMatchObject({ code: "bad-argument" });
    expectRefusal(() => backend().writePage(kv, 0, 2, bytes));
  });
}
