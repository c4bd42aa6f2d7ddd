import { maxTokens, vocabularyError } from "./vocabulary.ts";

/** A probe run this long doesn't happen by chance: the table is never more than half full. */
const maxProbes = 4096;

/** Pairs of symbols → rank of their merge (low first) and the symbol it makes. Open addressing, since maps of pairs are slow and big. */
export class PairTable {
  #mask: number;
  #slots: Int32Array;
  #size = 0;

  constructor(expected: number) {
    let capacity = 16;
    while (capacity < expected * 2) capacity *= 2;
    this.#mask = capacity - 1;
    // left + 1, right, rank, merged; zero in the first means empty.
    this.#slots = new Int32Array(capacity * 4);
  }

  get size(): number {
    return this.#size;
  }

  get full(): boolean {
    return this.#size * 2 > this.#mask;
  }

  clear(): void {
    this.#slots.fill(0);
    this.#size = 0;
  }

  /** Index for `rankAt` and `mergedAt`, or -1. */
  find(left: number, right: number): number {
    const at = this.#probe(left, right);
    return this.#slots[at] === 0 ? -1 : at;
  }

  rankAt(index: number): number {
    return this.#slots[index + 2]!;
  }

  mergedAt(index: number): number {
    return this.#slots[index + 3]!;
  }

  /** The first entry of a pair stays. Returns its index. */
  add(left: number, right: number, rank: number, merged: number): number {
    const at = this.#probe(left, right);
    const slots = this.#slots;
    if (slots[at] !== 0) return at;
    slots[at] = left + 1;
    slots[at + 1] = right;
    slots[at + 2] = rank;
    slots[at + 3] = merged;
    this.#size++;
    return at;
  }

  #probe(left: number, right: number): number {
    const slots = this.#slots;
    const mask = this.#mask;
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right + 0x7f4a7c15, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    let slot = (hash ^ (hash >>> 13)) & mask;
    for (let probes = 0; probes < maxProbes; probes++) {
      const at = slot * 4;
      if (slots[at] === 0 || (slots[at] === left + 1 && slots[at + 1] === right)) return at;
      slot = (slot + 1) & mask;
    }
    throw vocabularyError("limit-exceeded", "The merges of the vocabulary are built to collide.");
  }
}

/** Which neighbours may merge. `find` answers an index for `rankAt` and `mergedAt`, or -1. */
export interface PairRanks {
  find(left: number, right: number): number;
  rankAt(index: number): number;
  mergedAt(index: number): number;
}

/** Up to this many symbols, scanning for the best pair beats keeping a heap. */
const shortLength = 24;

/** Heap keys are rank × 2³² + position: lowest rank first, leftmost among equals, exact in a double. */
const positions = 2 ** 32;

/**
 * Merges neighbours in place, best rank first and leftmost among equals, until no pair is left.
 * Returns how many symbols remain at the start of `symbols`. O(n log n).
 */
export function mergePairs(symbols: Int32Array, count: number, pairs: PairRanks): number {
  return count <= shortLength ? mergeShort(symbols, count, pairs) : mergeLong(symbols, count, pairs);
}

const shortRanks = new Int32Array(shortLength);

function mergeShort(symbols: Int32Array, count: number, pairs: PairRanks): number {
  const ranks = shortRanks;
  const rankOf = (at: number): number => {
    const index = pairs.find(symbols[at]!, symbols[at + 1]!);
    return index < 0 ? maxTokens : pairs.rankAt(index);
  };
  for (let i = 0; i + 1 < count; i++) ranks[i] = rankOf(i);
  while (count > 1) {
    let best = 0;
    for (let i = 1; i + 1 < count; i++) if (ranks[i]! < ranks[best]!) best = i;
    if (ranks[best] === maxTokens) break;
    symbols[best] = pairs.mergedAt(pairs.find(symbols[best]!, symbols[best + 1]!));
    symbols.copyWithin(best + 1, best + 2, count);
    ranks.copyWithin(best, best + 1, count - 1);
    count--;
    if (best > 0) ranks[best - 1] = rankOf(best - 1);
    if (best + 1 < count) ranks[best] = rankOf(best);
  }
  return count;
}

function mergeLong(symbols: Int32Array, count: number, pairs: PairRanks): number {
  const next = new Int32Array(count);
  const previous = new Int32Array(count);
  const heap = new KeyHeap(count);
  const dead = -1;

  const push = (at: number): void => {
    const index = pairs.find(symbols[at]!, symbols[next[at]!]!);
    if (index >= 0) heap.push(pairs.rankAt(index) * positions + at);
  };
  for (let i = 0; i < count; i++) {
    next[i] = i + 1;
    previous[i] = i - 1;
  }
  for (let i = 0; i + 1 < count; i++) push(i);

  while (heap.size > 0) {
    const key = heap.pop();
    const at = key % positions;
    const right = next[at]!;
    if (symbols[at] === dead || right >= count) continue;
    // A pair that has changed since it was pushed has another rank, or its own key in the heap.
    const index = pairs.find(symbols[at]!, symbols[right]!);
    if (index < 0 || pairs.rankAt(index) !== (key - at) / positions) continue;
    symbols[at] = pairs.mergedAt(index);
    symbols[right] = dead;
    const after = next[right]!;
    next[at] = after;
    if (after < count) {
      previous[after] = at;
      push(at);
    }
    if (previous[at]! >= 0) push(previous[at]!);
  }

  let kept = 0;
  for (let at = 0; at < count; at = next[at]!) symbols[kept++] = symbols[at]!;
  return kept;
}

/** Binary heap of numbers, smallest first. */
class KeyHeap {
  #keys: Float64Array;
  size = 0;

  constructor(capacity: number) {
    this.#keys = new Float64Array(Math.max(16, capacity));
  }

  push(key: number): void {
    if (this.size === this.#keys.length) {
      const grown = new Float64Array(this.size * 2);
      grown.set(this.#keys);
      this.#keys = grown;
    }
    const keys = this.#keys;
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (keys[parent]! <= key) break;
      keys[at] = keys[parent]!;
      at = parent;
    }
    keys[at] = key;
  }

  pop(): number {
    const keys = this.#keys;
    const top = keys[0]!;
    const last = keys[--this.size]!;
    const size = this.size;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= size) break;
      if (child + 1 < size && keys[child + 1]! < keys[child]!) child++;
      if (keys[child]! >= last) break;
      keys[at] = keys[child]!;
      at = child;
    }
    keys[at] = last;
    return top;
  }
}
