import { LowbitError } from "@lowbit/core";
import { FreeList, roundUp } from "./free-list.ts";

/** Bytes of a WebAssembly page. */
export const pageBytes = 65_536;
/** What 32-bit addresses reach, and what engines give with 64-bit ones. */
export const addressableBytes: Readonly<Record<AddressSize, number>> = { 32: 2 ** 32, 64: 2 ** 34 };

/** Bits of an address. */
export type AddressSize = 32 | 64;

/** Pages that the modules declare: data, stack and a first bit of heap. */
export const modulePages = 4;

/** What a module wants of its memory. */
export interface MemoryKind {
  readonly shared: boolean;
  readonly addressSize: AddressSize;
}

/** Throws what the engine throws where it has no such memory. */
export function createMemory(maximum: number, { shared, addressSize }: MemoryKind): WebAssembly.Memory {
  const initial = modulePages;
  if (addressSize === 32) return new WebAssembly.Memory({ initial, maximum, shared });
  // Newer than the library's types.
  const descriptor = { address: "i64", initial: BigInt(initial), maximum: BigInt(maximum), shared };
  return new WebAssembly.Memory(descriptor as unknown as WebAssembly.MemoryDescriptor);
}

/** Below this, an engine that cannot even reserve the addresses has no memory for a model. */
const leastReservedBytes = 2 ** 28;

/**
 * A memory that may grow to `limitBytes`, or as far as addresses reach. Some engines cannot reserve so many addresses; they get half, and so on,
 * and that is then the limit.
 */
export function growableMemory(
  limitBytes: number,
  kind: MemoryKind,
): { memory: WebAssembly.Memory; limit: number } {
  const limit = Math.min(limitBytes, addressableBytes[kind.addressSize] - pageBytes);
  const maximum = Math.max(modulePages, Math.floor(limit / pageBytes));
  try {
    return { memory: createMemory(maximum, kind), limit };
  } catch (cause) {
    if (limit >= 2 * leastReservedBytes) return growableMemory(limit / 2, kind);
    throw new LowbitError("out-of-memory", "The JavaScript engine grants no WebAssembly memory.", {
      reason: "wasm-memory",
      plugin: "wasm",
      hint: "Dispose of other models first.",
      cause,
    });
  }
}

/** Memory grows by at least this share of itself, so that uploading a model is not thousands of growths. */
const growthShare = 1 / 16;

/**
 * The allocator over a WebAssembly memory: best fit over a free list. Memory never shrinks, so what is released is reused.
 * Growing the memory detaches every view; take them from `bytes`, `words` and `floats` each time.
 */
export class Heap {
  /** Replaced by an empty one when the heap closes, so that the engine may take the pages back. */
  memory: WebAssembly.Memory;
  readonly limitBytes: number;
  readonly addressSize: AddressSize;
  /** Bytes below the heap: the module's data and stack. */
  #base: number;
  readonly #free = new FreeList();
  readonly #allocated = new Map<number, number>();
  #end: number;
  #used = 0;
  #views: { bytes: Uint8Array; words: Int32Array; floats: Float32Array };

  /** `base` is the first address that the module leaves to its host; `limitBytes` bounds the whole memory. */
  constructor(memory: WebAssembly.Memory, base: number, limitBytes: number, addressSize: AddressSize = 32) {
    this.memory = memory;
    this.addressSize = addressSize;
    this.limitBytes = Math.floor(limitBytes / pageBytes) * pageBytes;
    this.#base = roundUp(base);
    this.#end = memory.buffer.byteLength;
    this.#views = viewsOf(memory);
    this.#free.put(this.#base, this.#end - this.#base);
  }

  /** An address as C reads it from a 32-bit word (c/address.h): with 64-bit memory in units of 16 bytes, to which it must be aligned. */
  word(address: number): number {
    return this.addressSize === 32 ? address : address / 16;
  }

  /** Bytes handed out, and those below the heap. */
  get usedBytes(): number {
    return this.#base + this.#used;
  }

  /** All of the memory, which never shrinks. */
  get heldBytes(): number {
    return this.memory.buffer.byteLength;
  }

  /** Free blocks, for tests: [start, size] by address. */
  get freeBlocks(): readonly (readonly [start: number, size: number])[] {
    return this.#free.blocks;
  }

  get bytes(): Uint8Array {
    return this.#fresh().bytes;
  }

  get words(): Int32Array {
    return this.#fresh().words;
  }

  get floats(): Float32Array {
    return this.#fresh().floats;
  }

  /**
   * Address of `bytes` bytes, aligned to 64, not cleared. `what` names their use in the message.
   * Throws `out-of-memory` with figures if the limit or the engine does not allow them.
   */
  allocate(bytes: number, what: string): number {
    if (!Number.isSafeInteger(bytes) || bytes < 0) {
      throw new LowbitError("internal", `An allocation of ${bytes} bytes for ${what} is impossible.`);
    }
    const size = roundUp(bytes);
    let start = this.#free.take(size);
    if (start === undefined) {
      this.#grow(size, what);
      start = this.#free.take(size)!;
    }
    this.#allocated.set(start, size);
    this.#used += size;
    return start;
  }

  release(address: number): void {
    const size = this.#allocated.get(address);
    if (size === undefined) {
      throw new LowbitError("internal", `Address ${address} was released twice or never allocated.`);
    }
    this.#allocated.delete(address);
    this.#used -= size;
    this.#free.put(address, size);
  }

  /** Lets go of the memory. Nothing may be allocated afterwards. */
  close(): void {
    this.memory = new WebAssembly.Memory({ initial: 0, maximum: 0 });
    this.#views = viewsOf(this.memory);
    this.#allocated.clear();
    this.#free.clear();
    this.#base = 0;
    this.#used = 0;
  }

  /** Makes the last free block at least `size` bytes. */
  #grow(size: number, what: string): void {
    const needed = Math.ceil((size - this.#free.sizeBefore(this.#end)) / pageBytes);
    const wanted = Math.max(needed, Math.ceil((this.#end * growthShare) / pageBytes));
    const room = (this.limitBytes - this.#end) / pageBytes;
    if (needed > room) throw this.#exhausted(size, what, "the limit");
    const before = this.#end;
    if (!this.#tryGrow(Math.min(wanted, room)) && !this.#tryGrow(needed)) {
      throw this.#exhausted(size, what, "what the JavaScript engine grants");
    }
    this.#free.put(before, this.#end - before);
  }

  #tryGrow(pages: number): boolean {
    try {
      // With 64-bit addresses pages are counted in big integers, which the library's types do not know.
      this.memory.grow((this.addressSize === 32 ? pages : BigInt(pages)) as number);
    } catch {
      return false;
    }
    this.#end += pages * pageBytes;
    return true;
  }

  #exhausted(size: number, what: string, bound: string): LowbitError {
    return new LowbitError(
      "out-of-memory",
      `${what} needs ${mebibytes(size)}, but WebAssembly memory has ${mebibytes(this.usedBytes)} in use and ` +
        `${bound} is ${mebibytes(this.limitBytes)}.`,
      {
        reason: "wasm-memory",
        plugin: "wasm",
        hint: "Use a smaller model, a shorter context or a q8_0 cache, or raise memoryLimitBytes.",
      },
    );
  }

  #fresh(): { bytes: Uint8Array; words: Int32Array; floats: Float32Array } {
    if (this.#views.bytes.buffer !== this.memory.buffer) this.#views = viewsOf(this.memory);
    return this.#views;
  }
}

function viewsOf(memory: WebAssembly.Memory): { bytes: Uint8Array; words: Int32Array; floats: Float32Array } {
  const { buffer } = memory;
  return { bytes: new Uint8Array(buffer), words: new Int32Array(buffer), floats: new Float32Array(buffer) };
}

function mebibytes(bytes: number): string {
  return `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
}
