/** Finds the longest of many texts that stands at a place in another. Sorted arrays: small, and quick to build. */
export class PrefixIndex {
  readonly #keys: readonly string[];
  readonly #values: Int32Array;
  /** One bit per first UTF-16 unit. */
  readonly #first = new Uint32Array(2048);

  /** Entries with an empty key are left out; of equal keys the first counts. */
  constructor(entries: Iterable<readonly [key: string, value: number]>) {
    const sorted = [...entries].filter(([key]) => key !== "");
    sorted.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    this.#keys = sorted.map(([key]) => key);
    this.#values = Int32Array.from(sorted, ([, value]) => value);
    for (const key of this.#keys) {
      const unit = key.charCodeAt(0);
      this.#first[unit >>> 5]! |= 1 << (unit & 31);
    }
  }

  get size(): number {
    return this.#keys.length;
  }

  /** The value of the longest key at `start`, or -1. */
  longest(text: string, start: number): number {
    let found = -1;
    this.each(text, start, (value) => {
      found = value;
    });
    return found;
  }

  /** Calls back with every key at `start`, short ones first. */
  each(text: string, start: number, visit: (value: number, length: number) => void): void {
    const unit = text.charCodeAt(start);
    if (Number.isNaN(unit) || (this.#first[unit >>> 5]! & (1 << (unit & 31))) === 0) return;
    let low = 0;
    let high = this.#keys.length;
    for (let depth = 0; start + depth < text.length; depth++) {
      const wanted = text.charCodeAt(start + depth);
      low = this.#bound(low, high, depth, wanted);
      high = this.#bound(low, high, depth, wanted + 1);
      if (low === high) return;
      if (this.#keys[low]!.length === depth + 1) visit(this.#values[low]!, depth + 1);
    }
  }

  /** First key in the range whose unit at `depth` is at least `unit`; keys that end before come first. */
  #bound(low: number, high: number, depth: number, unit: number): number {
    while (low < high) {
      const middle = (low + high) >>> 1;
      const key = this.#keys[middle]!;
      if (key.length <= depth || key.charCodeAt(depth) < unit) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
