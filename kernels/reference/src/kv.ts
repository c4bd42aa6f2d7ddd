import {
  floatToHalf,
  halfToFloat,
  type KvSpec,
  type KvStore,
  roundHalfEven,
  type TokenBatch,
} from "@lowbit/core";
import { invalid } from "./tensor.ts";

const types = ["f32", "f16", "q8_0"];
const maxHalf = 65504;

/** Throws `bad-argument` for a cache that cannot be. */
export function checkKvSpec(spec: KvSpec): void {
  const { layers, kvHeads, keySize, valueSize, pageTokens, pages, type } = spec;
  for (const size of [layers, kvHeads, keySize, valueSize, pageTokens, pages]) {
    if (!(Number.isInteger(size) && size >= 1)) throw invalid(`A cache has a size of ${size}.`);
  }
  if (!Number.isInteger(Math.log2(pageTokens))) {
    throw invalid(`Pages of ${pageTokens} positions are impossible; expected a power of two.`);
  }
  if (!types.includes(type))
    throw invalid(`The cache type ${type} is unknown; there are ${types.join(", ")}.`, "type");
  if (type === "q8_0" && (keySize % 32 !== 0 || valueSize % 32 !== 0)) {
    throw invalid(`q8_0 needs heads of a multiple of 32, not ${keySize} and ${valueSize}; use f16.`, "type");
  }
}

/** Values are rounded as the type would and then kept as f32, so this is the same for all types. */
export function kvBytes(spec: KvSpec): number {
  checkKvSpec(spec);
  const { layers, kvHeads, keySize, valueSize, pageTokens, pages } = spec;
  return 4 * layers * pages * pageTokens * kvHeads * (keySize + valueSize);
}

/** Keys and values by layer: rows of kvHeads · size values, one for each slot of each page. */
export class ReferenceKv implements KvStore {
  readonly layers: number;
  readonly kvHeads: number;
  readonly keySize: number;
  readonly valueSize: number;
  readonly pageTokens: number;
  readonly pages: number;
  readonly type: KvSpec["type"];
  readonly bytes: number;
  #keys: Float32Array[];
  #values: Float32Array[];

  constructor(spec: KvSpec) {
    this.bytes = kvBytes(spec);
    this.layers = spec.layers;
    this.kvHeads = spec.kvHeads;
    this.keySize = spec.keySize;
    this.valueSize = spec.valueSize;
    this.pageTokens = spec.pageTokens;
    this.pages = spec.pages;
    this.type = spec.type;
    const slots = spec.pages * spec.pageTokens * spec.kvHeads;
    const layers = (size: number): Float32Array[] =>
      Array.from({ length: spec.layers }, () => new Float32Array(slots * size));
    this.#keys = layers(spec.keySize);
    this.#values = layers(spec.valueSize);
  }

  keys(layer: number): Float32Array {
    return this.#layer(this.#keys, layer);
  }

  values(layer: number): Float32Array {
    return this.#layer(this.#values, layer);
  }

  copyPage(from: number, to: number): void {
    for (const page of [from, to]) {
      if (!Number.isInteger(page) || page < 0 || page >= this.pages) {
        throw invalid(`Page ${page} was to be copied in a cache of ${this.pages}.`, "page");
      }
    }
    for (const [layers, size] of [
      [this.#keys, this.keySize],
      [this.#values, this.valueSize],
    ] as const) {
      const step = this.pageTokens * this.kvHeads * size;
      for (const values of layers) values.copyWithin(to * step, from * step, (from + 1) * step);
    }
  }

  release(): void {
    this.#keys = [];
    this.#values = [];
  }

  /** Slot of the whole store where a position lies. */
  slot(table: Int32Array, position: number): number {
    const page = table[Math.floor(position / this.pageTokens)];
    if (page === undefined || page < 0 || page >= this.pages) {
      throw invalid(
        `Position ${position} needs page ${Math.floor(position / this.pageTokens)} of its sequence, which is ${page ?? "missing"}; the store has ${this.pages} pages.`,
        "page-range",
      );
    }
    return page * this.pageTokens + (position % this.pageTokens);
  }

  /** Writes row `index` of `from` to a slot, rounded to the store's type. */
  write(to: Float32Array, slot: number, from: Float32Array, index: number, width: number): void {
    const source = from.subarray(index * width, (index + 1) * width);
    const target = to.subarray(slot * width, (slot + 1) * width);
    if (this.type === "f32") {
      target.set(source);
      return;
    }
    const outside = source.find((value) => !(Math.abs(value) <= maxHalf));
    if (outside !== undefined) {
      throw invalid(
        `A key or value of ${outside} does not fit into ${this.type}; use an f32 cache.`,
        "overflow",
      );
    }
    if (this.type === "f16") target.set(source.map((value) => halfToFloat(floatToHalf(value))));
    else roundQ8(source, target);
  }

  #layer(store: readonly Float32Array[], layer: number): Float32Array {
    const found = store[layer];
    if (found !== undefined) return found;
    throw store.length === 0
      ? invalid("A cache was used after free.", "released")
      : invalid(`Layer ${layer} is outside the cache, which has ${store.length}.`);
  }
}

/** Blocks of 32: codes are value / (max|x| / 127), half to even; the scale is kept as f16. */
function roundQ8(source: Float32Array, target: Float32Array): void {
  for (let at = 0; at < source.length; at += 32) {
    let most = 0;
    for (let i = at; i < at + 32; i++) most = Math.max(most, Math.abs(source[i]!));
    const step = Math.fround(most / 127);
    const inverse = step > 0 ? Math.fround(1 / step) : 0;
    const scale = halfToFloat(floatToHalf(step));
    for (let i = at; i < at + 32; i++) {
      const code = roundHalfEven(Math.fround(source[i]! * inverse));
      target[i] = Math.max(-127, Math.min(127, code)) * scale;
    }
  }
}

/** Checks what the contract says of a batch: lengths, known sequences, and runs consecutive in batch and position. */
export function checkBatch(batch: TokenBatch): void {
  const { tokens, positions, sequences, pages } = batch;
  if (positions.length !== tokens.length || sequences.length !== tokens.length) {
    throw invalid(
      `A batch has ${tokens.length} tokens, ${positions.length} positions and ${sequences.length} sequences.`,
      "batch",
    );
  }
  const seen = new Set<number>();
  sequences.forEach((sequence, i) => {
    const position = positions[i]!;
    if (pages[sequence] === undefined) {
      throw invalid(`A batch names sequence ${sequence}, but has ${pages.length} page tables.`, "batch");
    }
    if (position < 0) throw invalid(`Position ${position} is negative.`, "batch");
    if (i > 0 && sequences[i - 1] === sequence) {
      if (position !== positions[i - 1]! + 1) {
        throw invalid(`Positions ${positions[i - 1]} and ${position} of a sequence do not follow.`, "batch");
      }
    } else if (seen.has(sequence)) {
      throw invalid(`The tokens of sequence ${sequence} are not together in the batch.`, "batch");
    }
    seen.add(sequence);
  });
}
