import { portableMath } from "@lowbit/core";

// The same probabilities, and so the same text for a seed, on every engine.
const { exp, log } = portableMath;

/** Tokens that are still in play, with their logits. Sorted ones fall by logit, ties by rising id. */
export interface Candidates {
  readonly ids: Int32Array;
  readonly logits: Float64Array;
  readonly sorted: boolean;
}

export function allCandidates(logits: Float32Array): Candidates {
  return { ids: countUp(logits.length), logits: new Float64Array(logits), sorted: false };
}

/** The `count` best, sorted: a heap of that size whose root is the worst one kept. */
export function largest(from: Candidates, count: number): Candidates {
  const { ids, logits } = from;
  const size = Math.min(count, ids.length);
  if (from.sorted) return { ids: ids.subarray(0, size), logits: logits.subarray(0, size), sorted: true };
  if (size * 4 > ids.length) return sort(from, size);
  const heap = new Int32Array(size);
  const worse = (a: number, b: number): boolean => {
    const difference = (logits[a] ?? 0) - (logits[b] ?? 0);
    return difference < 0 || (difference === 0 && (ids[a] ?? 0) > (ids[b] ?? 0));
  };
  const sink = (start: number, item: number): void => {
    let hole = start;
    for (;;) {
      let child = 2 * hole + 1;
      if (child >= size) break;
      if (child + 1 < size && worse(heap[child + 1] ?? 0, heap[child] ?? 0)) child++;
      if (!worse(heap[child] ?? 0, item)) break;
      heap[hole] = heap[child] ?? 0;
      hole = child;
    }
    heap[hole] = item;
  };
  for (let i = 0; i < size; i++) heap[i] = i;
  for (let i = (size >> 1) - 1; i >= 0; i--) sink(i, heap[i] ?? 0);
  for (let i = size; i < ids.length; i++) if (worse(heap[0] ?? 0, i)) sink(0, i);
  return sort(take(from, heap), size);
}

/** The first `size` of all, sorted. */
function sort(from: Candidates, size: number): Candidates {
  const { ids, logits } = from;
  const order = countUp(ids.length).sort(
    (a, b) => (logits[b] ?? 0) - (logits[a] ?? 0) || (ids[a] ?? 0) - (ids[b] ?? 0),
  );
  return { ...take(from, order.subarray(0, size)), sorted: true };
}

function take(from: Candidates, indices: Int32Array): Candidates {
  const ids = new Int32Array(indices.length);
  const logits = new Float64Array(indices.length);
  for (let i = 0; i < indices.length; i++) {
    ids[i] = from.ids[indices[i] ?? 0] ?? 0;
    logits[i] = from.logits[indices[i] ?? 0] ?? 0;
  }
  return { ids, logits, sorted: false };
}

/** 0, 1, 2 … A loop: over a large vocabulary `from` with a callback takes milliseconds. */
function countUp(length: number): Int32Array {
  const out = new Int32Array(length);
  for (let i = 0; i < length; i++) out[i] = i;
  return out;
}

/** Probabilities of the candidates among themselves. */
export function probabilities(from: Candidates): Float64Array {
  const best = maximum(from);
  let sum = 0;
  const out = from.logits.map((logit) => {
    const weight = exp(logit - best);
    sum += weight;
    return weight;
  });
  return out.map((weight) => weight / sum);
}

export function maximum({ logits, sorted }: Candidates): number {
  if (sorted) return logits[0] ?? 0;
  return logits.reduce((best, logit) => Math.max(best, logit), Number.NEGATIVE_INFINITY);
}

/** The smallest set of best tokens whose probabilities reach `share`; at least one. */
export function nucleus(from: Candidates, share: number): Candidates {
  const best = maximum(from);
  const total = from.logits.reduce((sum, logit) => sum + exp(logit - best), 0);
  // A few hundred tokens nearly always hold the share, so the whole vocabulary is seldom sorted.
  for (let count = 256; ; count *= 8) {
    const head = largest(from, count);
    let sum = 0;
    for (let i = 0; i < head.ids.length; i++) {
      sum += exp((head.logits[i] ?? 0) - best) / total;
      if (sum >= share) return largest(head, i + 1);
    }
    if (head.ids.length === from.ids.length) return head;
  }
}

/** Those at least `share` as likely as the best. */
export function atLeast(from: Candidates, share: number): Candidates {
  const floor = maximum(from) + log(share);
  return keep(from, (i) => (from.logits[i] ?? 0) >= floor);
}

/** Locally typical: the tokens whose surprise is nearest to the entropy, until their probabilities reach `share`. */
export function typical(from: Candidates, share: number): Candidates {
  const p = probabilities(from);
  const entropy = p.reduce((sum, value) => (value > 0 ? sum - value * log(value) : sum), 0);
  const distance = p.map((value) => Math.abs(-log(value) - entropy));
  const order = countUp(p.length).sort(
    (a, b) => (distance[a] ?? 0) - (distance[b] ?? 0) || (from.ids[a] ?? 0) - (from.ids[b] ?? 0),
  );
  const kept = new Set<number>();
  let sum = 0;
  for (const i of order) {
    kept.add(i);
    sum += p[i] ?? 0;
    if (sum > share) break;
  }
  return keep(from, (i) => kept.has(i));
}

function keep(from: Candidates, test: (index: number) => boolean): Candidates {
  const indices = countUp(from.ids.length).filter(test);
  return { ...take(from, indices), sorted: from.sorted };
}
