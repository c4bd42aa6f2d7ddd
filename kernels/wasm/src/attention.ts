import type { AttentionOptions, LowbitError, TokenBatch } from "@lowbit/core";
import { encodeBatch, kvTypes, type WasmKv } from "./kv.ts";
import { misuse, Op, type Recorder, real } from "./recorder.ts";
import type { WasmTensor } from "./tensor.ts";

/** The export that tells how much scratch memory attention needs. */
export interface AttentionExports {
  attention_scratch_bytes(heads: number, kvHeads: number, keySize: number, valueSize: number): number;
}

/** Records attention. Batches are encoded once per pass and cache, as every layer attends with the same one. */
export class AttentionRecorder {
  readonly #recorder: Recorder;
  readonly #kernels: AttentionExports;
  #generation = -1;
  #batches: { batch: TokenBatch; kv: WasmKv; address: number; bytes: number }[] = [];

  constructor(recorder: Recorder, kernels: AttentionExports) {
    this.#recorder = recorder;
    this.#kernels = kernels;
  }

  record(q: WasmTensor, k: WasmTensor, v: WasmTensor, kv: WasmKv, options: AttentionOptions): WasmTensor {
    const { heads, layer, batch, window, softcap } = options;
    const { kvHeads, keySize, valueSize, layout } = kv;
    const n = batch.tokens.length;
    if (!(Number.isInteger(heads) && heads >= kvHeads && heads % kvHeads === 0)) {
      throw invalid(`${heads} query heads cannot share ${kvHeads} key/value heads`);
    }
    if (!(Number.isInteger(layer) && layer >= 0 && layer < kv.layers)) {
      throw invalid(`layer ${layer} is outside the cache, which has ${kv.layers}`);
    }
    for (const [name, x, columns] of [
      ["q", q, heads * keySize],
      ["k", k, kvHeads * keySize],
      ["v", v, kvHeads * valueSize],
    ] as const) {
      if (x.rows !== n || x.columns !== columns) {
        throw invalid(`${name} is [${x.rows}, ${x.columns}], expected [${n}, ${columns}]`);
      }
    }
    if (window !== undefined && !(Number.isInteger(window) && window >= 1)) {
      throw invalid(`the window is ${window}, expected a positive integer`);
    }
    if (softcap !== undefined && !(softcap > 0)) throw invalid(`the softcap is ${softcap}, expected > 0`);
    const recorder = this.#recorder;
    const { address: batchAddress, bytes: batchBytes } = this.#encoded(batch, kv);
    const out = recorder.tensor(n, heads * valueSize);
    const scratchBytes =
      recorder.threads * this.#kernels.attention_scratch_bytes(heads, kvHeads, keySize, valueSize);
    const scratch = recorder.allocate(scratchBytes, "Attention's scratch memory");
    const layerBytes = kv.pages * layout.pageBytes;
    const layerAddress = kv.address + layer * layerBytes;
    const words = [
      recorder.word(layerAddress),
      layout.pageBytes,
      layout.valuesAt,
      layout.keyScalesAt,
      layout.valueScalesAt,
      Math.log2(kv.pageTokens),
      kvHeads,
      keySize,
      valueSize,
      kvTypes[kv.type],
      q.word,
      k.word,
      v.word,
      out.word,
      recorder.word(batchAddress),
      recorder.word(scratch),
      heads,
      real(options.scale),
      real(softcap ?? 0),
      Math.min(window ?? 0, 2 ** 31 - 1),
      options.causal === false ? 0 : 1,
    ];
    recorder.reads(k);
    recorder.reads(v);
    recorder.readsBytes(batchAddress, batchBytes);
    recorder.writesBytes(layerAddress, layerBytes);
    recorder.record(Op.attentionWrite, ...words);
    recorder.work(seenPositions(batch) * heads * (keySize + valueSize));
    recorder.reads(q);
    recorder.readsBytes(batchAddress, batchBytes);
    recorder.readsBytes(layerAddress, layerBytes);
    recorder.writesBytes(scratch, scratchBytes);
    recorder.writes(out);
    recorder.record(Op.attention, ...words);
    recorder.release(scratch, scratchBytes);
    return out;
  }

  #encoded(batch: TokenBatch, kv: WasmKv): { readonly address: number; readonly bytes: number } {
    const recorder = this.#recorder;
    if (this.#generation !== recorder.generation) this.#batches = [];
    this.#generation = recorder.generation;
    const known = this.#batches.find((entry) => entry.batch === batch && entry.kv === kv);
    if (known) return known;
    const words = encodeBatch(batch, kv);
    const bytes = words.length * 4;
    const address = recorder.allocate(bytes, "The page tables");
    recorder.copy(address, words);
    const entry = { batch, kv, address, bytes };
    this.#batches.push(entry);
    return entry;
  }
}

/** Positions that all tokens of a batch see, summed up. */
function seenPositions({ positions }: TokenBatch): number {
  let total = 0;
  for (let i = 0; i < positions.length; i++) total += positions[i]! + 1;
  return total;
}

function invalid(what: string): LowbitError {
  return misuse(`attention: ${what}.`, "shape");
}
