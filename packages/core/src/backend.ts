import type { Platform } from "./platform.ts";
import type { QuantType } from "./quant-type.ts";
import type { LinearWeight } from "./weight.ts";

/** A row-major matrix in backend memory: f32, or i32 for indices. Backends add their own fields. */
export interface Tensor {
  readonly rows: number;
  readonly columns: number;
}

/** An uploaded linear weight. */
export interface Weight {
  readonly out: number;
  readonly in: number;
  readonly experts: number;
  /** Kernel layout, e.g. "ints4 g32", as `inspect` shows it. */
  readonly layout: string;
  /** Backend memory it takes. */
  readonly bytes: number;
}

/** The paged key/value cache of one model: `pages` pages of `pageTokens` positions each, shared by all its sequences. */
export interface KvStore extends KvSpec {
  readonly bytes: number;
}

export interface KvSpec {
  readonly layers: number;
  readonly kvHeads: number;
  readonly keySize: number;
  readonly valueSize: number;
  /** Positions in a page: a power of two. */
  readonly pageTokens: number;
  readonly pages: number;
  readonly type: KvType;
}

export type KvType = "f32" | "f16" | "q8_0";

/**
 * Tokens of one or more sequences for one pass. Token i has `tokens[i]` at position `positions[i]` of sequence
 * `sequences[i]`; position p of sequence s lies in page `pages[s][p / pageTokens]`, slot `p % pageTokens`.
 * The tokens of one sequence are consecutive in the batch and in position; attention sees all earlier positions.
 */
export interface TokenBatch {
  readonly tokens: Int32Array;
  readonly positions: Int32Array;
  readonly sequences: Int32Array;
  readonly pages: readonly Int32Array[];
}

/** How the keys of a layer turn: cos, sin pairs for the leading dimensions of each head, as `Ops.rope` takes them. */
export interface KeyTurn {
  readonly angles: Float32Array;
  readonly pairing: "adjacent" | "halves";
}

/** Positions of one sequence that move to earlier ones. */
export interface PositionMove {
  /** Its page tables before and after. They may share pages: positions move in rising order. */
  readonly source: Int32Array;
  readonly target: Int32Array;
  readonly from: number;
  /** Below `from`. */
  readonly to: number;
  readonly count: number;
  /** For each layer. */
  readonly turns: readonly KeyTurn[];
}

export type Activation = "silu" | "gelu" | "gelu-tanh" | "relu" | "relu-squared" | "sigmoid";

export interface AttentionOptions {
  readonly kv: KvStore;
  readonly layer: number;
  readonly batch: TokenBatch;
  readonly heads: number;
  /** Multiplies q·k. */
  readonly scale: number;
  /** A token sees itself and the `window − 1` before it. Absent: all. */
  readonly window?: number;
  /** s ← cap · tanh(s / cap) before the softmax. */
  readonly softcap?: number;
  /** false (encoders): a token also sees the later ones of its sequence in the batch. @default true */
  readonly causal?: boolean;
}

/**
 * What architectures are written in. Each op enqueues work and returns a handle to its result; nothing is computed
 * before `Backend.submit`. Results live until the enclosing `scope` ends, or until the submit completes.
 */
export interface Ops {
  /** Rows of the (packed) table: [ids.length, table.in]. */
  embed(table: Weight, ids: Int32Array): Tensor;
  /** x [n, in] → [n, out], bias added. */
  linear(x: Tensor, weight: Weight): Tensor;
  /**
   * Row r of `ids` [n, k] (from `topK`) names the experts of token r. x is [n, in], each row used k times, or
   * [n·k, in]; the result is [n·k, out], expert order as in `ids`.
   */
  expertLinear(x: Tensor, weight: Weight, ids: Tensor): Tensor;
  /** x / √(mean(x²) + epsilon) · weight, over each `group` columns (default: the whole row); weight is [1, group]. */
  rmsNorm(x: Tensor, options: { weight?: Tensor; epsilon: number; group?: number }): Tensor;
  layerNorm(x: Tensor, options: { weight: Tensor; bias?: Tensor; epsilon: number }): Tensor;
  /**
   * Rotates the first `2·angles.columns/2` dimensions of each head: angles [n, dimensions] holds cos, sin pairs, pair i at
   * columns 2i and 2i+1.
   */
  rope(x: Tensor, angles: Tensor, options: { headSize: number; pairing: "adjacent" | "halves" }): Tensor;
  /** Writes k and v [n, kvHeads·size] to the cache at the batch's positions, then attends: [n, heads·valueSize]. */
  attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor;
  /** Element-wise; y may be [1, columns], then it is added to each row. */
  add(x: Tensor, y: Tensor): Tensor;
  mul(x: Tensor, y: Tensor): Tensor;
  activate(x: Tensor, kind: Activation): Tensor;
  /** activate(gate) · up */
  gate(gate: Tensor, up: Tensor, kind: Activation): Tensor;
  scale(x: Tensor, factor: number): Tensor;
  /** cap · tanh(x / cap) */
  softcap(x: Tensor, cap: number): Tensor;
  /** Over each row. */
  softmax(x: Tensor): Tensor;
  /** The k largest of each row, falling, ties to the lower index: i32 ids and f32 values, both [n, k]. */
  topK(x: Tensor, k: number): { ids: Tensor; values: Tensor };
  /** Columns [from, to) as a new tensor. */
  columns(x: Tensor, from: number, to: number): Tensor;
  /** The given rows as a new tensor. */
  gatherRows(x: Tensor, rows: Int32Array): Tensor;
  /** y [n·k, c] and weights [n, k] → [n, c]: row r = Σ_j weights[r, j] · y[r·k + j]. */
  weightedSum(y: Tensor, weights: Tensor): Tensor;
  /** Each row divided by its sum. */
  normalizeRows(x: Tensor): Tensor;
  /** Host values, copied, as a tensor of this pass. */
  constant(data: Float32Array, rows: number, columns: number): Tensor;
  /** Results made inside are released when it returns, except the one it returns. */
  scope(body: () => Tensor): Tensor;
}

/** How a backend would hold a type. */
export interface KernelLayout {
  /** As `inspect` shows it: "ints4 g32", "book4 g16", "dense f16". */
  readonly name: string;
  readonly bitsPerWeight: number;
}

export interface BackendMemory {
  /** Weights, caches, activations. */
  readonly usedBytes: number;
  /** What it has taken from the system, and may not be able to give back before `dispose`; at least `usedBytes`. */
  readonly heldBytes: number;
  readonly limitBytes: number;
}

export interface Backend {
  readonly name: string;
  /** For the user: build, instruction set, adapter. */
  readonly description: string;
  /** Its layout for a quantization type: packed where it has kernels, else dense, which always works. */
  layout(type: QuantType): KernelLayout;
  /** Backend bytes that `upload` will take for a weight of this shape. */
  weightBytes(type: QuantType, rows: number, columns: number): number;
  /** Repacks into backend memory. The weight's bytes are no longer needed afterwards; `disposable` ones are the backend's now. */
  upload(weight: LinearWeight): Weight;
  /** A tensor that lives until `free`: norms, factors. */
  vector(data: Float32Array): Tensor;
  kvBytes(spec: KvSpec): number;
  kv(spec: KvSpec): KvStore;
  /** Copies one page over another, of all layers: what earlier passes wrote there. */
  copyPage(kv: KvStore, from: number, to: number): void;
  /** The first `count` positions of a page, all layers, as they are at the time of the call: bytes as `KvPart` describes them. */
  readPage(kv: KvStore, page: number, count: number): Promise<Uint8Array>;
  /** Puts back what `readPage` gave, of this or another backend. The bytes are copied. */
  writePage(kv: KvStore, page: number, count: number, bytes: Uint8Array): void;
  /**
   * Copies positions [from, from + count) of one page table to [to, to + count) of another: values as they are, keys turned and rounded to the
   * store's type again. Throws `bad-argument`/overflow where a turned key does not fit the type; the target's positions then hold nothing.
   */
  movePositions(kv: KvStore, move: PositionMove): void;
  /** Gives the memory back for reuse. */
  free(resource: Weight | Tensor | KvStore): void;
  readonly ops: Ops;
  /** Runs what was recorded. Results stay readable until the next op is recorded. */
  submit(): Promise<void>;
  /** The only other synchronisation point: a copy of the tensor's values. */
  read(tensor: Tensor): Promise<Float32Array>;
  memory(): BackendMemory;
  dispose(): Promise<void>;
}

/** What users hand to `createEngine`: `wasm()`, `reference()`, … */
export interface BackendFactory {
  readonly name: string;
  /** Undefined with a reason in `unavailable` if it cannot run here. Cheap; no weights are touched. */
  probe(
    platform: Platform,
    options?: BackendOptions,
  ): Promise<{ readonly available: boolean; readonly reason?: string }>;
  create(platform: Platform, options?: BackendOptions): Promise<Backend>;
}

/** What a load tells the backend that is made for it. */
export interface BackendOptions {
  /** Threads for backends that compute on the processor. @default "auto", what serves the model best */
  readonly threads?: number | "auto" | undefined;
  /** Bytes of the model's weights in its files. */
  readonly weightBytes?: number;
}
