import type { KeyTurn, PositionMove } from "@lowbit/core";
import type { ReferenceKv } from "./kv.ts";
import { rotateHead } from "./ops.ts";
import { invalid } from "./tensor.ts";

/** Positions move in rising order, so that what is written over has been read. */
export function movePositions(kv: ReferenceKv, move: PositionMove): void {
  check(kv, move);
  const { source, target, from, to, count, turns } = move;
  const width = kv.kvHeads * kv.valueSize;
  for (const [layer, turn] of turns.entries()) {
    const keys = kv.keys(layer);
    const values = kv.values(layer);
    for (let i = 0; i < count; i++) {
      const read = kv.slot(source, from + i);
      const written = kv.slot(target, to + i);
      values.copyWithin(written * width, read * width, (read + 1) * width);
      const row = turned(keys, read, kv, turn);
      kv.write(keys, written, row, 0, row.length);
    }
  }
}

/** The keys of all heads at a slot, turned. */
function turned(
  keys: Float32Array,
  slot: number,
  { kvHeads, keySize }: ReferenceKv,
  turn: KeyTurn,
): Float32Array {
  const width = kvHeads * keySize;
  const row = keys.slice(slot * width, (slot + 1) * width);
  const out = row.slice();
  for (let head = 0; head < width; head += keySize) rotateHead(row, out, head, turn.angles, turn.pairing);
  return out;
}

/** Slots outside the tables are refused where they are used. */
function check(kv: ReferenceKv, { source, target, from, to, count, turns }: PositionMove): void {
  const whole = [from, to, count].every((value) => Number.isInteger(value) && value >= 0);
  if (!whole || to >= from)
    throw invalid(`${count} positions cannot move from ${from} to ${to}.`, "positions");
  const fits = turns.every(({ angles }) => angles.length % 2 === 0 && angles.length <= kv.keySize);
  if (turns.length !== kv.layers || !fits) {
    throw invalid(`The turns of ${turns.length} layers do not fit the cache.`);
  }
  for (let i = 0; i < count; i++) {
    kv.slot(source, from + i);
    kv.slot(target, to + i);
  }
}
