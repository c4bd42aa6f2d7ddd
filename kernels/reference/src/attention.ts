import { type AttentionOptions, type KvStore, portableMath, type Tensor } from "@lowbit/core";
import { checkBatch, type ReferenceKv } from "./kv.ts";
import type { Pass } from "./pass.ts";
import { invalid, shape } from "./tensor.ts";

/** Attention over the paged cache: first all keys and values are written, then each token and head attends, in f64. */
export function attention(
  pass: Pass,
  kvOf: (kv: KvStore) => ReferenceKv,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttentionOptions,
): Tensor {
  const kv = kvOf(options.kv);
  const { heads, layer, batch } = options;
  check(q, k, v, kv, options);
  const keys = kv.keys(layer);
  const values = kv.values(layer);
  const n = q.rows;
  for (let t = 0; t < n; t++) {
    const slot = kv.slot(batch.pages[batch.sequences[t]!]!, batch.positions[t]!);
    kv.write(keys, slot, pass.reals(k), t, kv.kvHeads * kv.keySize);
    kv.write(values, slot, pass.reals(v), t, kv.kvHeads * kv.valueSize);
  }
  const queries = pass.reals(q);
  const out = new Float32Array(n * heads * kv.valueSize);
  for (let t = 0; t < n; t++) {
    const slots = visibleSlots(kv, options, t);
    for (let h = 0; h < heads; h++) {
      // Consecutive query heads share a key/value head.
      const shared = Math.floor((h * kv.kvHeads) / heads);
      const scores = slots.map((slot) => {
        const at = (slot * kv.kvHeads + shared) * kv.keySize;
        const from = (t * heads + h) * kv.keySize;
        let sum = 0;
        for (let i = 0; i < kv.keySize; i++) sum += queries[from + i]! * keys[at + i]!;
        return softcapped(sum * options.scale, options.softcap);
      });
      const weights = softmax(scores);
      const to = (t * heads + h) * kv.valueSize;
      for (let i = 0; i < kv.valueSize; i++) {
        let sum = 0;
        for (let j = 0; j < slots.length; j++) {
          sum += weights[j]! * values[(slots[j]! * kv.kvHeads + shared) * kv.valueSize + i]!;
        }
        out[to + i] = sum;
      }
    }
  }
  return pass.result(out, n, heads * kv.valueSize);
}

/** Slots of the positions that token t sees, rising. */
function visibleSlots(kv: ReferenceKv, options: AttentionOptions, t: number): Float64Array {
  const { batch, window, causal } = options;
  const { positions, sequences, pages } = batch;
  let last = t;
  if (causal === false) while (sequences[last + 1] === sequences[t]) last++;
  const position = positions[t]!;
  const first = window === undefined ? 0 : Math.max(0, position - window + 1);
  const table = pages[sequences[t]!]!;
  return Float64Array.from({ length: positions[last]! - first + 1 }, (_, i) => kv.slot(table, first + i));
}

function softcapped(score: number, cap: number | undefined): number {
  return cap === undefined ? score : cap * portableMath.tanh(score / cap);
}

function softmax(scores: Float64Array): Float64Array {
  const most = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const powers = scores.map((score) => portableMath.exp(score - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

function check(q: Tensor, k: Tensor, v: Tensor, kv: ReferenceKv, options: AttentionOptions): void {
  const { heads, batch, window, softcap } = options;
  checkBatch(batch);
  if (!(Number.isInteger(heads) && heads >= kv.kvHeads && heads % kv.kvHeads === 0)) {
    throw invalid(`attention: ${heads} query heads cannot share ${kv.kvHeads} key/value heads.`);
  }
  const n = batch.tokens.length;
  for (const [name, x, columns] of [
    ["q", q, heads * kv.keySize],
    ["k", k, kv.kvHeads * kv.keySize],
    ["v", v, kv.kvHeads * kv.valueSize],
  ] as const) {
    if (x.rows !== n || x.columns !== columns) {
      throw invalid(`attention: ${name} is ${shape(x)}, expected [${n}, ${columns}].`);
    }
  }
  if (window !== undefined && !(Number.isInteger(window) && window >= 1)) {
    throw invalid(`attention: the window is ${window}, expected a positive integer.`);
  }
  if (softcap !== undefined && !(softcap > 0)) {
    throw invalid(`attention: the softcap is ${softcap}, expected a positive number.`);
  }
}
