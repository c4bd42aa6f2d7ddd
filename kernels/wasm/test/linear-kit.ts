import { readFileSync } from "node:fs";
import {
  dequantize,
  type FieldPlan,
  type LinearWeight,
  planOf,
  type QuantType,
  roundHalfEven,
} from "@lowbit/core";
import { Heap } from "../src/memory.ts";
import type { Variant } from "../src/modules.ts";
import {
  activationBytes,
  createWeights,
  type WasmWeight,
  type WeightExports,
  type Weights,
} from "../src/weights.ts";

interface LinearExports extends WeightExports {
  readonly __heap_base: WebAssembly.Global;
  activation_bytes(rows: number, columns: number): number;
  activation_quantize(
    memory: number,
    x: number,
    rows: number,
    columns: number,
    stride: number,
    part: number,
  ): void;
  linear(call: number, part: number): void;
  embed_rows(weight: number, ids: number, count: number, y: number, part: number): void;
  prefer_wide(wide: number): void;
  selftest(): number;
}

export interface MatmulOptions {
  readonly expert?: number;
  readonly rowFrom?: number;
  readonly rowTo?: number;
  /** Row of x of each token. */
  readonly xRows?: readonly number[];
  /** Row of y of each token. */
  readonly yRows?: readonly number[];
}

/** One build in a memory of its own, driven as the backend drives it. */
export class LinearKit {
  readonly exports: LinearExports;
  readonly heap: Heap;
  readonly weights: Weights;

  readonly #relaxed: boolean;
  /** `Part` in c/part.h: the only thread. */
  readonly #alone: number;

  /** `narrow`: the relaxed build as it runs where its wide dot product is slow. */
  constructor(kind: Variant | "narrow") {
    const variant = kind === "narrow" ? "relaxed" : kind;
    this.#relaxed = variant === "relaxed";
    const url = new URL(`../pkg/${variant}/lowbit_kernels_bg.wasm`, import.meta.url);
    const module = new WebAssembly.Module(readFileSync(url));
    const memory = new WebAssembly.Memory({ initial: 16, maximum: 16384 });
    this.exports = new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as LinearExports;
    this.exports.prefer_wide(kind === "narrow" ? 0 : 1);
    this.heap = new Heap(memory, Number(this.exports.__heap_base.value), 2 ** 30);
    this.weights = createWeights(this.heap, this.exports);
    this.#alone = this.heap.allocate(8, "a part");
    this.heap.words.set([0, 1], this.#alone / 4);
  }

  /** Quantizes x [rows, columns] as the only thread. */
  quantizeAll(to: number, x: number, rows: number, columns: number): void {
    this.exports.activation_quantize(to, x, rows, columns, columns, this.#alone);
  }

  /** Runs a `LinearCall` as the only thread. */
  linearAll(call: number): void {
    this.exports.linear(call, this.#alone);
  }

  /** The rows of an uploaded weight, decoded from its planes. */
  decode(weight: WasmWeight, ids: readonly number[]): Float32Array {
    const { columns } = weight;
    const rows = this.#using([4 * ids.length, 4 * ids.length * columns], (idsAt, y) => {
      this.heap.words.set(ids, idsAt / 4);
      this.exports.embed_rows(weight.address, idsAt, ids.length, y, this.#alone);
      return this.heap.floats.slice(y / 4, y / 4 + ids.length * columns);
    });
    const order = this.#order(weight);
    if (order === undefined) return rows;
    const result = new Float32Array(ids.length * weight.in);
    rows.forEach((value, i) => {
      const input = order[i % columns]!;
      if (input >= 0) result[Math.floor(i / columns) * weight.in + input] = value;
    });
    return result;
  }

  /** x [·, in] times the weight: [tokens, out], untouched values −7. */
  matmul(
    weight: WasmWeight,
    inputs: Float32Array,
    tokens: number,
    options: MatmulOptions = {},
  ): Float32Array {
    const { expert = 0, rowFrom = 0, rowTo = weight.out, xRows, yRows } = options;
    const { columns } = weight;
    const rows = inputs.length / weight.in;
    const order = this.#order(weight);
    const x = order
      ? Float32Array.from({ length: rows * columns }, (_, i) => {
          const input = order[i % columns]!;
          return input < 0 ? 0 : inputs[Math.floor(i / columns) * weight.in + input]!;
        })
      : inputs;
    const yCount = (yRows ? Math.max(...yRows) + 1 : tokens) * weight.out;
    const sizes = [4 * x.length, activationBytes(rows, columns), 4 * tokens, 4 * tokens, 4 * yCount, 64];
    return this.#using(sizes, (xAt, quantized, xRowsAt, yRowsAt, y, call) => {
      this.heap.floats.set(x, xAt / 4);
      this.heap.floats.fill(-7, y / 4, y / 4 + yCount);
      if (xRows) this.heap.words.set(xRows, xRowsAt / 4);
      if (yRows) this.heap.words.set(yRows, yRowsAt / 4);
      this.quantizeAll(quantized, xAt, rows, columns);
      const head = [weight.address, expert, rowFrom, rowTo, xAt, weight.quantizes ? quantized : 0];
      const tail = [xRows ? xRowsAt : 0, yRows ? yRowsAt : 0, tokens, y, weight.out];
      this.heap.words.set([...head, ...tail], call / 4);
      this.linearAll(call);
      return this.heap.floats.slice(y / 4, y / 4 + yCount);
    });
  }

  /** The order in which a weight wants its inputs, as the backend's operations would give them. */
  #order(weight: WasmWeight): Int32Array | undefined {
    if (weight.order === undefined) return undefined;
    return this.heap.words.slice(weight.order / 4, weight.order / 4 + weight.columns);
  }

  /** What the kernels take x for: scale · q, as they stored it (simd128 build: 16-bit codes with the middle two of four swapped). */
  quantized(x: Float32Array, columns: number): Float32Array {
    const rows = x.length / columns;
    return this.#using([4 * x.length, activationBytes(rows, columns)], (xAt, at) => {
      this.heap.floats.set(x, xAt / 4);
      this.quantizeAll(at, xAt, rows, columns);
      const [, , blocks = 0, meta = 0, codes = 0, split = 0] = this.heap.words.subarray(at / 4, at / 4 + 6);
      const view = new DataView(this.heap.memory.buffer);
      return Float32Array.from(x, (_, i) => {
        const column = i % columns;
        const block = Math.floor(i / columns) * blocks + Math.floor(column / 32);
        const k = column % 32;
        const swapped = k % 4 === 1 ? k + 1 : k % 4 === 2 ? k - 1 : k;
        const q = this.#relaxed
          ? view.getInt8(codes + block * 32 + k)
          : view.getInt16(split + block * 64 + 2 * swapped, true);
        return Math.fround(view.getFloat32(meta + 32 * block, true) * q);
      });
    });
  }

  #using<T>(sizes: readonly number[], body: (...addresses: number[]) => T): T {
    const addresses = sizes.map((size) => this.heap.allocate(size, "a test"));
    try {
      return body(...addresses);
    } finally {
      for (const address of addresses) this.heap.release(address);
    }
  }
}

/** The quantizer in plain numbers: scale and codes of each 32 columns. */
export function quantizeActivations(
  x: Float32Array,
  columns: number,
): { scale: Float32Array; codes: Int8Array } {
  const rows = x.length / columns;
  const blocks = Math.ceil(columns / 32);
  const scale = new Float32Array(rows * blocks);
  const codes = new Int8Array(x.length);
  for (let r = 0; r < rows; r++) {
    for (let b = 0; b < blocks; b++) {
      const from = r * columns + 32 * b;
      const to = Math.min(from + 32, (r + 1) * columns);
      const largest = Math.max(...x.subarray(from, to).map(Math.abs));
      if (largest < 2 ** -100) continue;
      scale[r * blocks + b] = largest / 127;
      const factor = Math.fround(127 / largest);
      for (let i = from; i < to; i++) codes[i] = roundHalfEven(Math.fround(x[i]! * factor));
    }
  }
  return { scale, codes };
}

/** Products of dequantized weights in f64: y [tokens, rows] and Σ|w||x| as the measure of rounding. */
export function exactProduct(
  weights: Float32Array,
  magnitudes: Float32Array,
  x: ArrayLike<number>,
  columns: number,
): { y: Float64Array; magnitude: Float64Array } {
  const rows = weights.length / columns;
  const tokens = x.length / columns;
  const y = new Float64Array(tokens * rows);
  const magnitude = new Float64Array(tokens * rows);
  for (let t = 0; t < tokens; t++) {
    for (let r = 0; r < rows; r++) {
      let sum = 0;
      let size = 0;
      for (let k = 0; k < columns; k++) {
        sum += weights[r * columns + k]! * x[t * columns + k]!;
        size += magnitudes[r * columns + k]! * Math.abs(x[t * columns + k]!);
      }
      y[t * rows + r] = sum;
      magnitude[t * rows + r] = size;
    }
  }
  return { y, magnitude };
}

/** |S·value| + |M|: what the terms of a weight with a minimum or a zero point amount to before they cancel. */
export function termMagnitudes(type: QuantType, blocks: Uint8Array, count: number): Float32Array {
  const full = dequantize(type, blocks, new Float32Array(count));
  if (type.min === undefined && type.zero === undefined) return full.map(Math.abs);
  const { min: _, zero: __, ...bare } = type;
  const scaled = dequantize(bare, blocks, new Float32Array(count));
  return scaled.map((value, i) => Math.abs(value) + Math.abs(value - full[i]!));
}

/** A small generator of reproducible uniform numbers in [0, 1). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

export function normals(count: number, random: () => number): Float32Array {
  return Float32Array.from({ length: count }, () => random() + random() + random() + random() - 2);
}

/** Random blocks of a type, their super-scales, and zero points that are no integers, finite and of like size. */
export function randomBlocks(type: QuantType, blocks: number, random: () => number): Uint8Array {
  const bytes = Uint8Array.from({ length: blocks * type.bytes }, () => Math.floor(random() * 256));
  const plan = planOf(type);
  if (type.values.kind === "dense") {
    // Every exponent but the higher half.
    if (type.bytes === 1) return bytes.map((byte) => byte & 0xbf);
    // Top bytes of numbers of ordinary size: no infinities, no subnormals.
    return bytes.map((byte, i) => (i % type.bytes === type.bytes - 1 ? (byte & 0x87) | 0x38 : byte));
  }
  const zero = plan.zeroPoint;
  const zeros = zero?.format ? { ...zero, format: zero.format } : undefined;
  const supers = [plan.scale.super, plan.min?.super, zeros].filter((field) => field !== undefined);
  for (let b = 0; b < blocks; b++) {
    const block = bytes.subarray(b * type.bytes, (b + 1) * type.bytes);
    for (const field of supers) {
      for (let i = 0; i < field.count; i++) writeField(field, block, i, superBits(field.format, random));
    }
  }
  return bytes;
}

function superBits(format: string, random: () => number): number {
  const mantissa = Math.floor(random() * 128);
  const sign = random() < 0.3 ? 1 : 0;
  const wobble = Math.floor(random() * 3);
  switch (format) {
    case "f16":
      return sign * 0x8000 + (9 + wobble) * 1024 + mantissa * 8;
    case "bf16":
      return sign * 0x8000 + (121 + wobble) * 128 + mantissa;
    case "f32":
      return (121 + wobble) * 2 ** 23 + mantissa * 4099;
    case "e8m0-half":
      return 120 + wobble;
    default:
      return mantissa;
  }
}

/** The inverse of core's `readField`. */
export function writeField(field: FieldPlan, block: Uint8Array, i: number, value: number): void {
  for (const piece of field.pieces) {
    for (let bit = 0; bit < piece.bits; bit++) {
      const at = piece.positions[i]! + bit;
      const on = Math.floor(value / 2 ** (piece.shift + bit)) % 2;
      block[at >> 3] = (block[at >> 3]! & ~(1 << (at & 7))) | (on << (at & 7));
    }
  }
}

export function linearWeight(
  type: QuantType,
  out: number,
  columns: number,
  blocks: Uint8Array,
  extra: Partial<LinearWeight> = {},
): LinearWeight {
  return { out, in: columns, segments: [{ type, from: 0, to: columns, blocks }], ...extra };
}
