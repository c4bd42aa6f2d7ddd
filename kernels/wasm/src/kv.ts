import type { KvSpec, KvStore, KvType, LowbitError, TokenBatch } from "@lowbit/core";
import { misuse } from "./recorder.ts";

/** `KvLayer.type` in c/ops.h. */
export const kvTypes: Readonly<Record<KvType, number>> = { f32: 0, f16: 1, q8_0: 2 };

const elementBytes: Readonly<Record<KvType, number>> = { f32: 4, f16: 2, q8_0: 1 };

/** Where things lie in a page, in bytes (`KvLayer` in c/ops.h). */
export interface PageLayout {
  readonly pageBytes: number;
  readonly valuesAt: number;
  readonly keyScalesAt: number;
  readonly valueScalesAt: number;
}

/** A cache in WebAssembly memory: pages of layer l begin at `address + l · pages · pageBytes`. */
export interface WasmKv extends KvStore {
  readonly address: number;
  readonly layout: PageLayout;
}

/** Throws `bad-argument` for sizes that make no cache. */
export function pageLayout(spec: KvSpec): PageLayout {
  for (const name of ["layers", "kvHeads", "keySize", "valueSize", "pageTokens", "pages"] as const) {
    if (!Number.isSafeInteger(spec[name]) || spec[name] < 1) {
      throw misuse(`A cache's ${name} must be a positive integer; it is ${spec[name]}.`, "shape");
    }
  }
  if (!(spec.type in kvTypes)) {
    throw misuse(
      `The cache type ${JSON.stringify(spec.type)} is unknown; "f32", "f16" and "q8_0" are known.`,
      "type",
    );
  }
  if (!Number.isInteger(Math.log2(spec.pageTokens)) || spec.pageTokens > 2 ** 20) {
    throw misuse(
      `A cache's pageTokens must be a power of two up to 2^20; it is ${spec.pageTokens}.`,
      "shape",
    );
  }
  const quantized = spec.type === "q8_0";
  if (quantized && (spec.keySize % 32 !== 0 || spec.valueSize % 32 !== 0)) {
    throw misuse(
      `A q8_0 cache needs head sizes that are multiples of 32; these are ${spec.keySize} (keys) and ${spec.valueSize} (values).`,
      "type",
      "Use an f16 cache for this model.",
    );
  }
  const slots = spec.kvHeads * spec.pageTokens;
  let end = 0;
  const region = (bytes: number): number => {
    const at = end;
    end += Math.ceil(bytes / 16) * 16;
    return at;
  };
  region(slots * spec.keySize * elementBytes[spec.type]);
  const valuesAt = region(slots * spec.valueSize * elementBytes[spec.type]);
  const keyScalesAt = quantized ? region((slots * spec.keySize) / 16) : 0;
  const valueScalesAt = quantized ? region((slots * spec.valueSize) / 16) : 0;
  return { pageBytes: end, valuesAt, keyScalesAt, valueScalesAt };
}

/** Bytes of the whole cache. */
export function kvBytes(spec: KvSpec): number {
  return spec.layers * spec.pages * pageLayout(spec).pageBytes;
}

/**
 * A batch as `Batch` in c/ops.h: the number of runs, then row, count, first position and table offset of each run, then the
 * page tables. Throws `bad-argument` where the batch contradicts the contract or the cache.
 */
export function encodeBatch(batch: TokenBatch, kv: KvSpec): Int32Array {
  const { tokens, positions, sequences, pages } = batch;
  const n = tokens.length;
  if (n === 0 || positions.length !== n || sequences.length !== n) {
    throw invalid(`it has ${n} tokens, ${positions.length} positions and ${sequences.length} sequences`);
  }
  const runs: { row: number; count: number; position: number; table: Int32Array }[] = [];
  const seen = new Set<number>();
  for (let row = 0; row < n; ) {
    const sequence = sequences[row]!;
    const position = positions[row]!;
    const table = pages[sequence];
    if (table === undefined)
      throw invalid(`sequence ${sequence} has no page table; there are ${pages.length}`);
    if (seen.has(sequence)) throw invalid(`the tokens of sequence ${sequence} are not consecutive`);
    if (position < 0) throw invalid(`position ${position} of sequence ${sequence} is negative`);
    seen.add(sequence);
    let count = 1;
    for (; row + count < n && sequences[row + count] === sequence; count++) {
      if (positions[row + count] !== position + count) {
        throw invalid(
          `positions ${positions[row + count - 1]} and ${positions[row + count]} of sequence ${sequence} are not consecutive`,
        );
      }
    }
    const used = Math.ceil((position + count) / kv.pageTokens);
    if (used > table.length) {
      throw invalid(
        `sequence ${sequence} reaches position ${position + count - 1}, but its table has ${table.length} pages of ${kv.pageTokens}`,
        "page-range",
      );
    }
    runs.push({ row, count, position, table: table.subarray(0, used) });
    row += count;
  }
  const size = runs.reduce((sum, run) => sum + run.table.length, 1 + 4 * runs.length);
  const words = new Int32Array(size);
  words[0] = runs.length;
  let at = 1 + 4 * runs.length;
  runs.forEach((run, i) => {
    const page = run.table.find((id) => id < 0 || id >= kv.pages);
    if (page !== undefined)
      throw invalid(`page ${page} is outside the cache, which has ${kv.pages}`, "page-range");
    words.set([run.row, run.count, run.position, at], 1 + 4 * i);
    words.set(run.table, at);
    at += run.table.length;
  });
  return words;
}

function invalid(what: string, reason = "batch"): LowbitError {
  return misuse(`The token batch is invalid: ${what}.`, reason);
}
