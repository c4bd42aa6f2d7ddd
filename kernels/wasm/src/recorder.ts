import { LowbitError, type Tensor } from "@lowbit/core";
import { Arena } from "./arena.ts";
import type { Heap } from "./memory.ts";
import { byBlocks, Phases, type Sharing } from "./phases.ts";
import { WasmTensor } from "./tensor.ts";

/** Operation codes, as in c/run.c. */
export const Op = {
  copy: 1,
  embed: 2,
  quantize: 3,
  linear: 4,
  expertLinear: 5,
  rmsNorm: 6,
  layerNorm: 7,
  rope: 8,
  attentionWrite: 9,
  add: 10,
  mul: 11,
  activate: 12,
  gate: 13,
  scale: 14,
  softcap: 15,
  softmax: 16,
  topK: 17,
  columns: 18,
  gatherRows: 19,
  weightedSum: 20,
  normalizeRows: 21,
  permuteColumns: 22,
  attention: 23,
  phase: 24,
} as const;

/** Parts of a phase for each thread: the more, the less a thread that is late holds up the others. */
const partsPerThread = 4;

/** Most words of an entry: its length has 24 bits. */
const maxEntryWords = 2 ** 24 - 1;

/** A longer list gives its memory back after its pass: a prompt of 512 tokens makes about half of it. */
const idleListWords = 2 ** 18;

const float = new Float32Array(1);
const floatBits = new Int32Array(float.buffer);

/** The bits of an f32, for an entry's word. */
export function real(value: number): number {
  float[0] = value;
  return floatBits[0] ?? 0;
}

/** What an open scope, or the pass itself, has recorded. */
interface Frame {
  readonly tensors: WasmTensor[];
  /** Tensors whose quantized form was made in it. */
  readonly quantized: WasmTensor[];
  /** Tensors whose columns were put in another order in it. */
  readonly permuted: { readonly x: WasmTensor; readonly order: number }[];
  /** Length of the list when it began. */
  start: number;
}

/** The exports that passes need. `check` throws once the backend is disposed. */
export interface RunExports {
  /** Threads that run a list; 1: the host's own. */
  readonly threads: number;
  /** Runs a list: 0, or 1 + the position of the entry that failed. */
  run(list: number, words: number): number | Promise<number>;
  check(): void;
  /** The backend was disposed. */
  readonly closed: boolean;
}

/**
 * The list of one pass and the memory of its results. Memory that a scope releases is reused within the pass, before its
 * entries have run; so constants are part of the list and reach memory when their turn comes.
 */
export class Recorder {
  readonly #heap: Heap;
  readonly #kernels: RunExports;
  readonly #arena: Arena;
  #list: Int32Array<ArrayBuffer> = new Int32Array(4096);
  #length = 0;
  /** The list's copy in WebAssembly memory. */
  #listAddress = 0;
  #listWords = 0;
  /** The pass, then each open scope. */
  readonly #frames: Frame[] = [{ tensors: [], quantized: [], permuted: [], start: 0 }];
  #submitted = false;
  readonly #phases: Phases | undefined;
  /** Position of the current phase's head. */
  #phaseAt = 0;
  /** Rises whenever entries are forgotten: what else was derived from them is then void. */
  generation = 0;

  constructor(heap: Heap, kernels: RunExports) {
    this.#heap = heap;
    this.#kernels = kernels;
    this.#arena = new Arena(heap);
    this.#phases = kernels.threads > 1 ? new Phases() : undefined;
  }

  get threads(): number {
    return this.#kernels.threads;
  }

  /** An address for a word of the list. */
  word(address: number): number {
    return this.#heap.word(address);
  }

  /** The next entry reads the tensor. Weights and vectors need not be told: no pass writes them. */
  reads(tensor: WasmTensor, sharing: Sharing = 0): void {
    this.#phases?.read(tensor.address, tensor.bytes, sharing);
  }

  /** The next entry writes the tensor. */
  writes(tensor: WasmTensor, sharing: Sharing = 0): void {
    this.#phases?.write(tensor.address, tensor.bytes, sharing);
  }

  /** The next entry does so much, besides writing its results: bytes of weights or multiplications, whichever are more. */
  work(amount: number): void {
    this.#phases?.work(amount);
  }

  readsBytes(address: number, bytes: number, sharing: Sharing = 0): void {
    this.#phases?.read(address, bytes, sharing);
  }

  writesBytes(address: number, bytes: number, sharing: Sharing = 0): void {
    this.#phases?.write(address, bytes, sharing);
  }

  /** Adds an entry. Words are integers, addresses, or `real(value)`. */
  record(op: number, ...words: number[]): void {
    const at = this.#entry(op, words.length);
    for (let i = 0; i < words.length; i++) this.#list[at + i] = words[i]!;
  }

  /** Adds an entry that ends with data. */
  recordWithData(op: number, words: readonly number[], data: Int32Array): void {
    const at = this.#entry(op, words.length + data.length);
    for (let i = 0; i < words.length; i++) this.#list[at + i] = words[i]!;
    this.#list.set(data, at + words.length);
  }

  /** Copies host data to memory when its turn comes. */
  copy(address: number, data: Float32Array | Int32Array): void {
    const words = new Int32Array(data.buffer, data.byteOffset, data.length);
    const chunk = 2 ** 22;
    for (let from = 0; from < words.length; from += chunk) {
      const part = words.subarray(from, from + chunk);
      this.writesBytes(address + from * 4, part.length * 4);
      this.recordWithData(Op.copy, [this.word(address + from * 4), part.length], part);
    }
  }

  /** A result of the pass. */
  tensor(rows: number, columns: number, type: "f32" | "i32" = "f32", bound = 0): WasmTensor {
    const address = this.allocate(rows * columns * 4, `A tensor [${rows}, ${columns}]`);
    const tensor = new WasmTensor(this, { rows, columns, type, bound }, address, false);
    this.#frames.at(-1)?.tensors.push(tensor);
    return tensor;
  }

  /** Bytes that passes hold but do not use. */
  get idleBytes(): number {
    return this.#arena.freeBytes;
  }

  /** Memory for the pass, until `release` or its end. The caller may release it as soon as its last use is recorded. */
  allocate(bytes: number, what: string): number {
    this.begin();
    try {
      return this.#arena.allocate(bytes, what);
    } catch (error) {
      // Whoever runs out of memory gives up the pass; what it took must not stand in the way of the next.
      this.drop();
      throw error;
    }
  }

  /** `bytes` as they were asked for. */
  release(address: number, bytes: number): void {
    this.#arena.release(address, bytes);
  }

  /** The quantized form of x, `bytes` large: made once, while x lives. */
  quantized(x: WasmTensor, bytes: number): number {
    if (x.quantized !== 0) return x.quantized;
    const address = this.allocate(bytes, "Quantized activations");
    const sharing = byBlocks(x.rows, x.columns);
    this.reads(x, sharing);
    this.writesBytes(address, bytes);
    this.record(Op.quantize, this.word(address), x.word, x.rows, x.columns);
    // A vector outlives the pass; its quantized form does not.
    if (x.persistent) return address;
    x.quantized = address;
    x.quantizedBytes = bytes;
    this.#frames.at(-1)?.quantized.push(x);
    return address;
  }

  /** x with column j of `columns` being its column order[j], or 0 where that is −1: made once, while x lives. */
  permuted(x: WasmTensor, order: number, columns: number): WasmTensor {
    const known = x.permuted.get(order);
    if (known) return known;
    const address = this.allocate(x.rows * columns * 4, "Activations in another order");
    const result = new WasmTensor(this, { rows: x.rows, columns, type: "f32" }, address, false);
    this.reads(x);
    this.writes(result);
    const sizes = [x.rows, x.columns, columns, 0];
    this.record(Op.permuteColumns, x.word, this.word(order), result.word, ...sizes);
    // A vector outlives the pass; what was made of it does not.
    if (x.persistent) return result;
    x.permuted.set(order, result);
    this.#frames.at(-1)?.permuted.push({ x, order });
    return result;
  }

  /** Runs `body`; what it made is released, except what it returns. If it throws, nothing of it stays recorded. */
  scope<T extends Tensor>(body: () => T): T {
    this.begin();
    const frame: Frame = { tensors: [], quantized: [], permuted: [], start: this.#length };
    const parent = this.#frames.at(-1);
    this.#frames.push(frame);
    try {
      const result = body();
      for (const tensor of frame.tensors) {
        if (tensor === (result as Tensor)) parent?.tensors.push(tensor);
        else this.releaseTensor(tensor);
      }
      parent?.quantized.push(...frame.quantized);
      parent?.permuted.push(...frame.permuted);
      return result;
    } catch (error) {
      for (const tensor of frame.tensors) this.releaseTensor(tensor);
      for (const tensor of frame.quantized) this.#forgetQuantized(tensor);
      for (const { x, order } of frame.permuted) this.#forgetPermuted(x, order);
      this.#length = Math.min(this.#length, frame.start);
      this.#phases?.end();
      this.generation++;
      throw error;
    } finally {
      this.#frames.pop();
    }
  }

  releaseTensor(tensor: WasmTensor): void {
    if (tensor.released) return;
    tensor.released = true;
    if (tensor.persistent) this.#heap.release(tensor.address);
    else this.#arena.release(tensor.address, tensor.rows * tensor.columns * 4);
    this.#forgetQuantized(tensor);
    for (const order of [...tensor.permuted.keys()]) this.#forgetPermuted(tensor, order);
  }

  #forgetPermuted(x: WasmTensor, order: number): void {
    const made = x.permuted.get(order);
    x.permuted.delete(order);
    if (made) this.releaseTensor(made);
  }

  #forgetQuantized(tensor: WasmTensor): void {
    if (tensor.quantized !== 0) this.#arena.release(tensor.quantized, tensor.quantizedBytes);
    tensor.quantized = 0;
  }

  /** May the tensor's values be read now? */
  isReadable(tensor: WasmTensor): boolean {
    return !tensor.released && (tensor.persistent || this.#submitted);
  }

  /** Runs the list. Its results stay until something is recorded again. */
  async submit(): Promise<void> {
    if (this.#frames.length > 1) throw misuse("submit was called inside a scope.", "scope");
    if (this.#submitted) return;
    this.begin();
    const words = this.#length;
    if (this.#phases) this.#linkPhases();
    this.#placeList(words);
    let failed: number;
    try {
      const result = words === 0 ? 0 : this.#kernels.run(this.word(this.#listAddress), words);
      failed = typeof result === "number" ? result : await result;
    } catch (cause) {
      // Disposed in the middle of a pass: there is nothing left to give back.
      if (!this.#kernels.closed) this.drop();
      if (LowbitError.is(cause)) throw cause;
      throw new LowbitError("internal", "The WebAssembly kernels trapped.", { plugin: "wasm", cause });
    }
    this.#submitted = true;
    this.#length = 0;
    if (this.#listWords > idleListWords) this.#placeList(0);
    if (failed === 0) return;
    const op = (this.#list[failed - 1] ?? 0) & 255;
    this.drop();
    throw failure(op);
  }

  /** Tells each phase where the next one begins. */
  #linkPhases(): void {
    const list = this.#list;
    let last: number | undefined;
    for (let at = 0; at < this.#length; at += list[at]! >>> 8) {
      if ((list[at]! & 255) !== Op.phase) continue;
      if (last !== undefined) list[last + 2] = at;
      last = at;
    }
    if (last !== undefined) list[last + 2] = this.#length;
  }

  /** Copies the list to WebAssembly memory; an unusually long one is let go afterwards, with 0 words. */
  #placeList(words: number): void {
    if (words > this.#listWords || words === 0) {
      if (this.#listAddress !== 0) this.#heap.release(this.#listAddress);
      this.#listAddress = 0;
      this.#listWords = 0;
      if (words === 0) return;
      this.#listAddress = this.#heap.allocate(this.#list.length * 4, "The list of operations");
      this.#listWords = this.#list.length;
    }
    this.#heap.words.set(this.#list.subarray(0, words), this.#listAddress / 4);
  }

  /** Forgets the pass: its list, and the memory of its results. */
  drop(): void {
    for (const frame of this.#frames) {
      for (const tensor of frame.tensors) tensor.released = true;
      frame.tensors.length = 0;
      frame.quantized.length = 0;
      frame.permuted.length = 0;
      frame.start = 0;
    }
    this.#arena.clear();
    this.#phases?.end();
    this.#length = 0;
    this.#submitted = false;
    this.generation++;
  }

  /** Starts a new pass if the last one was submitted: its results are gone. To be called before an operation looks at its inputs. */
  begin(): void {
    this.#kernels.check();
    if (this.#submitted) this.drop();
  }

  #entry(op: number, words: number): number {
    this.begin();
    const placement = op === Op.phase ? undefined : this.#phases?.place();
    if (placement?.opens) {
      this.#phaseAt = this.#length;
      this.record(Op.phase, 1, 0);
    }
    if (placement?.divided) this.#list[this.#phaseAt + 1] = partsPerThread * this.threads;
    if (words >= maxEntryWords) {
      throw misuse(`An operation has ${words} words of arguments, too many for one pass.`, "size");
    }
    const at = this.#length;
    const end = at + 1 + words;
    if (end > this.#list.length) {
      const larger = new Int32Array(Math.max(end, 2 * this.#list.length));
      larger.set(this.#list);
      this.#list = larger;
    }
    this.#list[at] = op | ((1 + words) << 8);
    this.#length = end;
    return at + 1;
  }
}

/** The caller broke the contract's rules. */
export function misuse(what: string, reason: string, hint?: string): LowbitError {
  return new LowbitError("bad-argument", what, { reason, plugin: "wasm", ...(hint && { hint }) });
}

function failure(op: number): LowbitError {
  if (op === Op.attentionWrite) {
    return misuse(
      "A key or value is not finite or exceeds 65504, the most that an f16 or q8_0 cache can hold.",
      "overflow",
      "Load the model with an f32 cache.",
    );
  }
  return new LowbitError("internal", `Operation ${op} of the recorded list could not run.`, {
    plugin: "wasm",
  });
}
