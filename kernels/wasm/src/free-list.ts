/** A cache line, and more than the 16 bytes that vectors want. */
const alignment = 64;

/** Sizes and addresses are multiples of 64, and no size is 0. */
export function roundUp(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / alignment)) * alignment;
}

/** Free blocks in address order. Neighbours are merged at once; the best fit is taken, from its start. */
export class FreeList {
  readonly #starts: number[] = [];
  readonly #sizes: number[] = [];
  #bytes = 0;

  /** Free bytes in all. */
  get bytes(): number {
    return this.#bytes;
  }

  /** [start, size] by address. */
  get blocks(): readonly (readonly [start: number, size: number])[] {
    return this.#starts.map((start, i) => [start, this.#sizes[i]!]);
  }

  /** Size of the block that ends at `end`, or 0. */
  sizeBefore(end: number): number {
    const last = this.#starts.length - 1;
    return last >= 0 && this.#starts[last]! + this.#sizes[last]! === end ? this.#sizes[last]! : 0;
  }

  /** `size` bytes from the smallest block that has them. */
  take(size: number): number | undefined {
    let best = -1;
    let bestSize = Number.POSITIVE_INFINITY;
    for (let i = 0; i < this.#sizes.length; i++) {
      const candidate = this.#sizes[i]!;
      if (candidate >= size && candidate < bestSize) {
        best = i;
        bestSize = candidate;
        if (candidate === size) break;
      }
    }
    if (best < 0) return undefined;
    const start = this.#starts[best]!;
    if (bestSize === size) {
      this.#starts.splice(best, 1);
      this.#sizes.splice(best, 1);
    } else {
      this.#starts[best] = start + size;
      this.#sizes[best] = bestSize - size;
    }
    this.#bytes -= size;
    return start;
  }

  /** Adds a block, which must not overlap any. */
  put(start: number, size: number): void {
    if (size === 0) return;
    this.#bytes += size;
    let at = 0;
    for (let high = this.#starts.length; at < high; ) {
      const middle = (at + high) >> 1;
      if (this.#starts[middle]! < start) at = middle + 1;
      else high = middle;
    }
    const joinsLeft = at > 0 && this.#starts[at - 1]! + this.#sizes[at - 1]! === start;
    const joinsRight = at < this.#starts.length && start + size === this.#starts[at];
    if (joinsLeft) {
      this.#sizes[at - 1]! += size;
      if (joinsRight) {
        this.#sizes[at - 1]! += this.#sizes[at]!;
        this.#starts.splice(at, 1);
        this.#sizes.splice(at, 1);
      }
    } else if (joinsRight) {
      this.#starts[at] = start;
      this.#sizes[at]! += size;
    } else {
      this.#starts.splice(at, 0, start);
      this.#sizes.splice(at, 0, size);
    }
  }

  clear(): void {
    this.#starts.length = 0;
    this.#sizes.length = 0;
    this.#bytes = 0;
  }
}
