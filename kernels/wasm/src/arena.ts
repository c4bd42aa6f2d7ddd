import { FreeList, roundUp } from "./free-list.ts";
import type { Heap } from "./memory.ts";

/**
 * The memory of one pass. What is released here may be handed out again to the same pass at once, since its list runs in the
 * order it was recorded, but goes back to the heap only when the pass is over: whatever the host writes meanwhile must not
 * lie where an entry that has not run yet will write.
 */
export class Arena {
  readonly #heap: Heap;
  readonly #free = new FreeList();
  /** Addresses of what the heap gave. */
  readonly #chunks: number[] = [];

  constructor(heap: Heap) {
    this.#heap = heap;
  }

  /** Bytes that the heap counts as used, but the pass does not use. */
  get freeBytes(): number {
    return this.#free.bytes;
  }

  /** As `Heap.allocate`. */
  allocate(bytes: number, what: string): number {
    const size = roundUp(bytes);
    const address = this.#free.take(size);
    if (address !== undefined) return address;
    const chunk = this.#heap.allocate(size, what);
    this.#chunks.push(chunk);
    return chunk;
  }

  /** Gives back what `allocate` gave for so many bytes. */
  release(address: number, bytes: number): void {
    this.#free.put(address, roundUp(bytes));
  }

  /** The pass is over. */
  clear(): void {
    for (const chunk of this.#chunks) this.#heap.release(chunk);
    this.#chunks.length = 0;
    this.#free.clear();
  }
}
