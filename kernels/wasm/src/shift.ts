import type { PositionMove } from "@lowbit/core";
import { kvTypes, type WasmKv } from "./kv.ts";
import type { Heap } from "./memory.ts";
import { misuse } from "./recorder.ts";
import { roundUp } from "./segment-layout.ts";

/** `ShiftCall` in c/shift.c; 0, or 1 where a key does not fit. */
export interface ShiftExports {
  shift_positions(call: number): number;
}

const callWords = 19;

/** `Backend.movePositions`: a call for each layer, with tables and angles behind it. */
export function shiftPositions(heap: Heap, kernels: ShiftExports, kv: WasmKv, move: PositionMove): void {
  checkMove(kv, move);
  const { source, target, from, to, count, turns } = move;
  const { address, layers, pages, kvHeads, keySize, valueSize, layout } = kv;
  const sourceAt = roundUp(4 * callWords, 16);
  const targetAt = roundUp(sourceAt + 4 * source.length, 16);
  const anglesAt = Math.ceil((targetAt + 4 * target.length) / 16) * 16;
  const rowsAt = anglesAt + 16 * Math.ceil(keySize / 4);
  const call = heap.allocate(rowsAt + 32 * Math.ceil(keySize / 4), "moving positions of the cache");
  try {
    const { words, floats } = heap;
    words.set(source, (call + sourceAt) / 4);
    words.set(target, (call + targetAt) / 4);
    for (let layer = 0; layer < layers; layer++) {
      const { angles, pairing } = turns[layer]!;
      floats.set(angles, (call + anglesAt) / 4);
      const { pageBytes, valuesAt, keyScalesAt, valueScalesAt } = layout;
      const data = address + layer * pages * pageBytes;
      words.set(
        [
          ...[heap.word(data), pageBytes, valuesAt, keyScalesAt, valueScalesAt, Math.log2(kv.pageTokens)],
          ...[kvHeads, keySize, valueSize, kvTypes[kv.type]],
          ...[sourceAt, targetAt, anglesAt, rowsAt].map((at) => heap.word(call + at)),
          ...[from, to, count, angles.length, pairing === "halves" ? 1 : 0],
        ],
        call / 4,
      );
      if (kernels.shift_positions(heap.word(call)) !== 0) {
        throw misuse(
          `A turned key does not fit into ${kv.type}.`,
          "overflow",
          "Use an f32 cache for this model.",
        );
      }
    }
  } finally {
    heap.release(call);
  }
}

/** Throws `bad-argument` for what is outside the cache or would overwrite what is still to be read. */
function checkMove(kv: WasmKv, { source, target, from, to, count, turns }: PositionMove): void {
  const whole = [from, to, count].every((value) => Number.isInteger(value) && value >= 0);
  if (!whole || to >= from) {
    throw misuse(`${count} positions cannot move from ${from} to ${to}.`, "positions");
  }
  const tables = [
    [source, from],
    [target, to],
  ] as const;
  for (const [table, first] of tables) {
    const used = table.subarray(
      Math.floor(first / kv.pageTokens),
      Math.ceil((first + count) / kv.pageTokens),
    );
    const bad = used.find((page) => page < 0 || page >= kv.pages);
    if (first + count > table.length * kv.pageTokens || bad !== undefined) {
      throw misuse(`Positions ${first} to ${first + count - 1} are outside the page table.`, "page-range");
    }
  }
  const fits = turns.every(({ angles }) => angles.length % 2 === 0 && angles.length <= kv.keySize);
  if (turns.length !== kv.layers || !fits) {
    throw misuse(`The turns of ${turns.length} layers do not fit the cache.`, "shape");
  }
}
