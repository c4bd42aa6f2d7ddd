/**
 * How the parts of an entry divide a range of memory among them, as a number: entries with equal numbers for the same range give part i of n the
 * same bytes (`ELEMENTS` in c/part.h). 0: in another way, or each all of it.
 */
export type Sharing = number;

/** Of f32 values by units of 32: element-wise operations, the norm of one row. */
export function byElements(rows: number, columns: number): Sharing {
  return rows * columns;
}

/** Of activations by blocks of 32 columns: the same where rows are whole blocks. */
export function byBlocks(rows: number, columns: number): Sharing {
  return rows === 1 || columns % 32 === 0 ? byElements(rows, columns) : 0;
}

/** Of what a product writes, by its columns: the same for one row. */
export function byProductRows(rows: number, columns: number): Sharing {
  return rows === 1 ? byElements(rows, columns) : 0;
}

/** An entry of less work is not worth dividing. A unit is about a byte of memory read, or a multiplication: 16 K take a microsecond or two. */
const littleWork = 16_384;

/** What becomes of an entry. `parts`: of its phase, from now on. */
export interface Placement {
  readonly opens: boolean;
  readonly divided: boolean;
}

/**
 * Cuts a list into phases. Threads take parts of a phase in any order, and each does its part of all the phase's entries; so part i of an entry may
 * use what part i of an entry before has made, but no other's. Where it would, a new phase begins, unless there is so little to do that one part
 * does it all. Memory is reused within a pass, so ranges are compared, not tensors.
 */
export class Phases {
  /** Of the phase's entries: from, to, sharing of each access. */
  readonly #reads: number[] = [];
  readonly #writes: number[] = [];
  /** Of the entry that comes. */
  readonly #nextReads: number[] = [];
  readonly #nextWrites: number[] = [];
  #nextWork = 0;
  /** Entries of the phase depend on each other, so it stays in one part. */
  #serial = false;
  #divided = false;
  /** There is no phase to go on with. */
  #fresh = true;

  /** The next entry reads this range. */
  read(address: number, bytes: number, sharing: Sharing): void {
    this.#nextReads.push(address, address + bytes, sharing);
  }

  write(address: number, bytes: number, sharing: Sharing): void {
    this.#nextWrites.push(address, address + bytes, sharing);
    this.#nextWork += bytes;
  }

  /** The next entry does so much, besides writing its results. */
  work(amount: number): void {
    this.#nextWork += amount;
  }

  /** Finds a place for the next entry. */
  place(): Placement {
    const [reads, writes] = [this.#nextReads, this.#nextWrites];
    const little = this.#nextWork < littleWork;
    const depends =
      conflict(reads, this.#writes) || conflict(writes, this.#writes) || conflict(writes, this.#reads);
    const joins = depends ? little && !this.#divided : little || !this.#serial;
    const opens = this.#fresh || !joins;
    if (opens) {
      this.#reads.length = 0;
      this.#writes.length = 0;
      this.#serial = false;
      this.#divided = false;
      this.#fresh = false;
    } else if (depends) {
      this.#serial = true;
    }
    if (!little) this.#divided = true;
    for (let i = 0; i < reads.length; i++) this.#reads.push(reads[i]!);
    for (let i = 0; i < writes.length; i++) this.#writes.push(writes[i]!);
    reads.length = 0;
    writes.length = 0;
    this.#nextWork = 0;
    return { opens, divided: this.#divided };
  }

  /** Another list begins, or entries were taken out of this one. */
  end(): void {
    this.#fresh = true;
    this.#nextReads.length = 0;
    this.#nextWrites.length = 0;
    this.#nextWork = 0;
  }
}

function conflict(next: readonly number[], before: readonly number[]): boolean {
  for (let i = 0; i < next.length; i += 3) {
    const [from, to, sharing] = [next[i]!, next[i + 1]!, next[i + 2]!];
    for (let j = 0; j < before.length; j += 3) {
      const [otherFrom, otherTo] = [before[j]!, before[j + 1]!];
      if (from >= otherTo || otherFrom >= to) continue;
      const alike = sharing !== 0 && sharing === before[j + 2] && from === otherFrom && to === otherTo;
      if (!alike) return true;
    }
  }
  return false;
}
