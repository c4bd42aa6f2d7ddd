import { LowbitError, type PositionMove } from "@lowbit/core";

/** One text in the cache: its tokens, and the pages that hold their keys and values. */
export interface Sequence {
  /** Tokens whose keys and values are in the cache. */
  readonly tokens: readonly number[];
  /** Page of each `pageTokens` positions. */
  readonly pages: Int32Array;
  /** Tokens behind those that were in the cache, had to give up their pages, and have to be computed anew. */
  readonly lost: readonly number[];
}

interface Entry extends Sequence {
  tokens: number[];
  pages: Int32Array;
  lost: number[];
  /** Tokens that are sure; guesses come behind them. */
  sure: number;
  /** Tokens whose keys and values are what this text gives; behind them they remember tokens that were dropped. */
  pure: number;
  /** Order of retirement, for eviction. */
  age: number;
}

export interface KvCacheOptions {
  /** Positions in a page. */
  pageTokens: number;
  pages: number;
  /** Most tokens of one sequence. */
  contextLength: number;
  /** Copies what a page holds over another. */
  copyPage(from: number, to: number): void;
  /** Moves `count` positions of one page table to earlier ones of another, as `Backend.movePositions`. */
  movePositions(move: Omit<PositionMove, "turns">): void;
}

/**
 * The book-keeping of the paged key/value cache: which pages belong to which sequence. Full pages may belong to several
 * sequences with the same beginning; a page that is still being filled belongs to one, and whoever shares its beginning only gets a
 * copy. Finished sequences stay until their pages are needed, so that a later text with the same beginning starts from them.
 */
export interface KvCache extends Readonly<Omit<KvCacheOptions, "copyPage" | "movePositions">> {
  readonly freePages: number;
  /** Sequences in use. */
  readonly running: number;
  /** A sequence for these tokens; as many of them as the cache knows are there already, but never the last. */
  begin(tokens: readonly number[]): Sequence;
  /** An empty sequence that shares nothing. */
  fresh(): Sequence;
  /**
   * Makes room for `count` more tokens; false if other sequences in use hold the pages. Throws `context-full` for more than a context.
   */
  reserve(sequence: Sequence, count: number): boolean;
  /** Of the tokens to come the first `sure` are sure, the rest are guesses: nobody else may start from them, until `settle`. */
  guess(sequence: Sequence, sure: number): void;
  /** Of the guesses the last `wrong` were so: they are taken out again. */
  settle(sequence: Sequence, wrong: number): void;
  /**
   * Drops `drop` tokens behind the first `keep`; those behind them move up. From there on nobody else may start from more than the first
   * `keep`, as what follows was computed from tokens that are gone. Where pages are short, what follows becomes `lost`.
   */
  shift(sequence: Sequence, keep: number, drop: number): void;
  /** The tokens' keys and values have been written; the lost ones come first. */
  append(sequence: Sequence, tokens: readonly number[]): void;
  /** Takes the pages of a sequence in use; its tokens become `lost`. */
  preempt(sequence: Sequence): void;
  /** Sequences in use, oldest first. */
  sequences(): Iterable<Sequence>;
  has(sequence: Sequence): boolean;
  /** Tokens of the sequence that was retired last, if it is still there. */
  latest(): readonly number[] | undefined;
  /** Done with it; others may start from it. */
  retire(sequence: Sequence): void;
  /** Done with it; nobody may start from it. */
  discard(sequence: Sequence): void;
}

const unbounded = Number.POSITIVE_INFINITY;
/** More than this many finished sequences are not worth searching. */
const maxIdle = 64;

export function createKvCache(options: KvCacheOptions): KvCache {
  const { pageTokens, pages, contextLength } = options;
  const references = new Uint32Array(pages);
  const free = Array.from({ length: pages }, (_, i) => pages - 1 - i);
  const idle = new Set<Entry>();
  const running = new Set<Entry>();
  let clock = 0;

  const releasePage = (page: number): void => {
    const left = (references[page] ?? 1) - 1;
    references[page] = left;
    if (left === 0) free.push(page);
  };

  const release = (entry: Entry): void => {
    for (const page of entry.pages) releasePage(page);
    entry.pages = new Int32Array(0);
    entry.tokens = [];
    entry.lost = [];
    // Whatever comes is computed anew.
    entry.pure = unbounded;
  };

  const oldest = (except?: Entry): Entry | undefined => {
    let found: Entry | undefined;
    for (const entry of idle) {
      if (entry !== except && (found === undefined || entry.age < found.age)) found = entry;
    }
    return found;
  };

  const evict = (entry: Entry): void => {
    idle.delete(entry);
    release(entry);
  };

  /** A page of one's own, at the cost of finished sequences but `except`. */
  const takePage = (except?: Entry): number | undefined => {
    while (free.length === 0) {
      const victim = oldest(except);
      if (victim === undefined) return undefined;
      evict(victim);
    }
    const page = free.pop();
    if (page !== undefined) references[page] = 1;
    return page;
  };

  /** A page that nobody else reads, at the cost of finished sequences: the given one, or a fresh one in its place. */
  const ownPage = (page: number): number | undefined => {
    while ((references[page] ?? 0) > 1) {
      const fresh = free.pop();
      if (fresh !== undefined) {
        references[fresh] = 1;
        return fresh;
      }
      const victim = oldest();
      if (victim === undefined) return undefined;
      evict(victim);
    }
    return page;
  };

  /** Pages for the positions from `keep` on that may be written, and the ones before as they are; undefined if there are none to be had. */
  const writablePages = (pages: Int32Array, keep: number): Int32Array | undefined => {
    const target = pages.slice();
    for (let i = Math.floor(keep / pageTokens); i < target.length; i++) {
      const page = ownPage(pages[i] ?? 0);
      if (page === undefined) {
        for (const [j, taken] of target.entries()) if (taken !== pages[j]) releasePage(taken);
        return undefined;
      }
      target[i] = page;
    }
    return target;
  };

  const start = (tokens: number[], shared: Int32Array): Entry => {
    for (const page of shared) references[page] = (references[page] ?? 0) + 1;
    const entry: Entry = { tokens, pages: shared, lost: [], sure: unbounded, pure: unbounded, age: 0 };
    running.add(entry);
    return entry;
  };

  const own = (sequence: Sequence): Entry => {
    const entry = sequence as Entry;
    if (!running.has(entry))
      throw new LowbitError("internal", "A sequence was used after it was given back.");
    return entry;
  };

  return {
    pageTokens,
    pages,
    contextLength,
    get freePages() {
      return free.length;
    },
    get running() {
      return running.size;
    },
    begin(tokens) {
      // The last token must be computed anew: its logits are what the caller wants.
      const reusable = tokens.slice(0, -1);
      let best: Entry | undefined;
      let bestCommon = 0;
      for (const entry of [...idle, ...running]) {
        const common = Math.min(commonPrefix(entry.tokens, reusable), entry.sure, entry.pure);
        if (common > bestCommon) {
          bestCommon = common;
          best = entry;
        }
      }
      if (best === undefined) return start([], new Int32Array(0));
      if (idle.has(best) && bestCommon === best.tokens.length) {
        // The new text goes on where this one ended: take it over, its last page half filled.
        idle.delete(best);
        running.add(best);
        return best;
      }
      const kept = Math.floor(bestCommon / pageTokens);
      const begun = best.pages[kept];
      const entry = start(best.tokens.slice(0, kept * pageTokens), best.pages.slice(0, kept));
      if (begun === undefined || bestCommon % pageTokens === 0) return entry;
      const copy = takePage(best);
      if (copy === undefined) return entry;
      options.copyPage(begun, copy);
      entry.pages = Int32Array.of(...entry.pages, copy);
      entry.tokens = best.tokens.slice(0, bestCommon);
      return entry;
    },
    fresh: () => start([], new Int32Array(0)),
    reserve(sequence, count) {
      const entry = own(sequence);
      const length = entry.tokens.length + count;
      if (length > contextLength) throw contextFull(length, contextLength);
      const needed = Math.ceil(length / pageTokens) - entry.pages.length;
      if (needed <= 0) return true;
      while (free.length < needed) {
        const victim = oldest();
        if (victim === undefined) return false;
        evict(victim);
      }
      const grown = new Int32Array(entry.pages.length + needed);
      grown.set(entry.pages);
      for (let i = entry.pages.length; i < grown.length; i++) {
        const page = free.pop() ?? 0;
        references[page] = 1;
        grown[i] = page;
      }
      entry.pages = grown;
      return true;
    },
    guess(sequence, sure) {
      const entry = own(sequence);
      entry.sure = entry.tokens.length + entry.lost.length + sure;
    },
    settle(sequence, wrong) {
      const entry = own(sequence);
      entry.sure = unbounded;
      const fromLost = Math.min(wrong, entry.lost.length);
      entry.lost.length -= fromLost;
      entry.tokens.length -= wrong - fromLost;
    },
    shift(sequence, keep, drop) {
      const entry = own(sequence);
      const all = [...entry.tokens, ...entry.lost];
      const left = [...all.slice(0, keep), ...all.slice(keep + drop)];
      const source = entry.pages;
      const count = left.length - keep;
      const kept = source.slice(0, Math.ceil(left.length / pageTokens));
      const target = entry.lost.length === 0 ? writablePages(kept, keep) : undefined;
      if (target === undefined) {
        release(entry);
        entry.lost = left;
        return;
      }
      const seam = Math.floor(keep / pageTokens);
      const [seamBefore, seamAfter] = [source[seam], target[seam]];
      if (keep % pageTokens > 0 && seamBefore !== undefined && seamAfter !== undefined) {
        if (seamBefore !== seamAfter) options.copyPage(seamBefore, seamAfter);
      }
      // Should the move fail, what was kept is still whole.
      entry.tokens = left.slice(0, keep);
      entry.pages = target;
      entry.pure = Math.min(entry.pure, keep);
      for (const page of source) if (!target.includes(page)) releasePage(page);
      if (count > 0) options.movePositions({ source, target, from: keep + drop, to: keep, count });
      entry.tokens = left;
    },
    append(sequence, tokens) {
      const entry = own(sequence);
      if (entry.tokens.length + tokens.length > entry.pages.length * pageTokens) {
        throw new LowbitError("internal", "Tokens were written to the cache without room for them.");
      }
      for (const token of tokens) entry.tokens.push(token);
      if (entry.lost.length > 0) entry.lost = entry.lost.slice(tokens.length);
    },
    preempt(sequence) {
      const entry = own(sequence);
      const lost = [...entry.tokens, ...entry.lost];
      release(entry);
      entry.lost = lost;
    },
    sequences: () => running,
    has: (sequence) => running.has(sequence as Entry),
    latest() {
      let found: Entry | undefined;
      for (const entry of idle) if (found === undefined || entry.age > found.age) found = entry;
      return found && [...found.tokens];
    },
    retire(sequence) {
      const entry = own(sequence);
      running.delete(entry);
      if (entry.tokens.length > entry.pure) entry.tokens.length = entry.pure;
      // Pages reserved for tokens that never came hold nothing.
      const used = Math.ceil(entry.tokens.length / pageTokens);
      for (const page of entry.pages.subarray(used)) releasePage(page);
      entry.pages = entry.pages.slice(0, used);
      entry.lost = [];
      entry.sure = unbounded;
      entry.pure = unbounded;
      if (entry.tokens.length === 0) return;
      entry.age = ++clock;
      idle.add(entry);
      const victim = idle.size > maxIdle ? oldest() : undefined;
      if (victim) evict(victim);
    },
    discard(sequence) {
      const entry = own(sequence);
      running.delete(entry);
      release(entry);
    },
  };
}

function commonPrefix(a: readonly number[], b: readonly number[]): number {
  const most = Math.min(a.length, b.length);
  let i = 0;
  while (i < most && a[i] === b[i]) i++;
  return i;
}

/** The text does not fit. */
export function contextFull(tokens: number, contextLength: number): LowbitError {
  return new LowbitError("context-full", `${tokens} tokens do not fit a context of ${contextLength}.`, {
    reason: "context-length",
    hint: "Shorten the text, or load the model with a larger contextLength.",
  });
}
