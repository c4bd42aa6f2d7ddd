import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createKvCache, type KvCache, type KvCacheOptions, type Sequence } from "./kv-cache.ts";

const fill = (cache: KvCache, tokens: readonly number[]): Sequence => {
  const sequence = cache.begin(tokens);
  const rest = tokens.slice(sequence.tokens.length);
  cache.reserve(sequence, rest.length);
  cache.append(sequence, rest);
  return sequence;
};

const count = (length: number, from = 0): number[] => Array.from({ length }, (_, i) => from + i);

/** For tests that do not look into pages. */
const untouched = { copyPage: (): void => undefined, movePositions: (): void => undefined };

describe("kv cache", () => {
  it("takes whole pages as they are needed and gives all back", () => {
    const cache = createKvCache({ ...untouched, pageTokens: 4, pages: 10, contextLength: 40 });
    const sequence = fill(cache, count(9));
    expect([sequence.pages.length, cache.freePages]).toEqual([3, 7]);
    cache.discard(sequence);
    expect([cache.freePages, cache.running]).toEqual([10, 0]);
  });

  it("takes over a finished sequence that the new text continues", () => {
    const cache = createKvCache({ ...untouched, pageTokens: 4, pages: 10, contextLength: 40 });
    const first = fill(cache, count(6));
    const pages = [...first.pages];
    cache.retire(first);
    const second = cache.begin(count(9));
    expect(second.tokens).toEqual(count(6));
    expect([...second.pages]).toEqual(pages);
  });

  it("shares full pages with a text that diverges, and frees the tail when room is needed", () => {
    const cache = createKvCache({ ...untouched, pageTokens: 4, pages: 5, contextLength: 20 });
    const first = fill(cache, count(18));
    const pages = [...first.pages];
    cache.retire(first);
    const second = cache.begin([...count(10), 99, 98]);
    expect(second.tokens).toEqual(count(8));
    expect([...second.pages]).toEqual(pages.slice(0, 2));
    expect(cache.freePages).toBe(0);
    cache.reserve(second, 12);
    // The old sequence gave up its three other pages; the shared two stayed.
    expect([...second.pages].slice(0, 2)).toEqual(pages.slice(0, 2));
    expect(new Set(second.pages).size).toBe(5);
  });

  it("shares pages with a running sequence, of the one being written a copy", () => {
    const copies: number[][] = [];
    const cache = createKvCache({
      pageTokens: 4,
      pages: 10,
      contextLength: 40,
      ...untouched,
      copyPage: (from, to) => void copies.push([from, to]),
    });
    const first = fill(cache, count(7));
    const second = cache.begin(count(12));
    expect(second.tokens).toEqual(count(7));
    expect(copies).toEqual([[first.pages[1], second.pages[1]]]);
    expect(second.pages[0]).toBe(first.pages[0]);
    cache.discard(first);
    expect(cache.freePages).toBe(8);
    cache.discard(second);
    expect(cache.freePages).toBe(10);
  });

  it("leaves the last token to be computed", () => {
    const cache = createKvCache({ ...untouched, pageTokens: 4, pages: 10, contextLength: 40 });
    cache.retire(fill(cache, count(8)));
    expect(cache.begin(count(8)).tokens).toEqual(count(7));
    expect(
      createKvCache({ ...untouched, pageTokens: 4, pages: 1, contextLength: 4 }).begin([1]).tokens,
    ).toEqual([]);
  });

  it("frees the sequence that was used longest ago first", () => {
    const cache = createKvCache({ ...untouched, pageTokens: 4, pages: 3, contextLength: 12 });
    cache.retire(fill(cache, count(4, 100)));
    cache.retire(fill(cache, count(4, 200)));
    cache.retire(fill(cache, [...count(4, 100), 7])); // continues the first, which is young again
    cache.discard(fill(cache, count(4, 300)));
    expect(cache.begin(count(5, 200)).tokens).toEqual([]);
    expect(cache.begin(count(6, 100)).tokens.length).toBeGreaterThan(0);
  });

  it("refuses more than a context, and says when others hold the pages", () => {
    const cache = createKvCache({ ...untouched, pageTokens: 4, pages: 3, contextLength: 8 });
    const first = fill(cache, count(8));
    expect(() => cache.reserve(first, 1)).toThrow(/9 tokens do not fit a context of 8/);
    const second = cache.fresh();
    expect(cache.reserve(second, 8)).toBe(false);
    cache.discard(first);
    expect(cache.reserve(second, 8)).toBe(true);
  });

  it("notices sequences that are used after they were given back", () => {
    const cache = createKvCache({ ...untouched, pageTokens: 4, pages: 3, contextLength: 8 });
    const sequence = fill(cache, [1]);
    cache.discard(sequence);
    expect(() => cache.append(sequence, [1])).toThrow(/given back/);
    expect(() => cache.discard(sequence)).toThrow(/given back/);
  });

  it("lets others start from what is sure, not from guesses, until they are settled", () => {
    const cache = createKvCache({ ...untouched, pageTokens: 4, pages: 20, contextLength: 40 });
    const first = fill(cache, count(6));
    const write = (tokens: readonly number[]) => {
      cache.reserve(first, tokens.length);
      cache.append(first, tokens);
    };
    cache.guess(first, 1);
    write([100, 101, 102, 103]);
    const next = [...count(6), 100, 101, 102, 103, 104];
    expect(cache.begin(next).tokens).toEqual([...count(6), 100]);
    cache.settle(first, 2);
    expect(cache.begin(next).tokens).toEqual([...count(6), 100, 101]);
    cache.guess(first, 0);
    write([102]);
    expect(cache.begin(next).tokens).toEqual([...count(6), 100, 101]);
  });

  it("drops tokens behind the first, and gives others no more than those", () => {
    const moves: unknown[] = [];
    const copies: number[][] = [];
    const cache = createKvCache({
      copyPage: (from, to) => void copies.push([from, to]),
      movePositions: ({ source, target, ...rest }) => void moves.push([[...source], [...target], rest]),
      ...{ pageTokens: 4, pages: 8, contextLength: 16 },
    });
    const first = fill(cache, count(16));
    const [a, b, c, d] = first.pages;
    const second = cache.begin([...count(9), 99]);
    expect([...second.pages].slice(0, 2)).toEqual([a, b]);
    cache.shift(first, 2, 7);
    expect(first.tokens).toEqual([0, 1, 9, 10, 11, 12, 13, 14, 15]);
    // The pages that the second reads are not written; the first one's beginning is copied.
    const [e, f] = first.pages;
    expect([a, b, c, d]).not.toContain(e);
    expect(copies.at(-1)).toEqual([a, e]);
    expect(moves).toEqual([[[a, b, c, d], [e, f, c], { from: 9, to: 2, count: 7 }]]);
    expect(cache.begin([...first.tokens, 50]).tokens).toEqual([0, 1]);
    cache.retire(first);
    expect(cache.latest()).toEqual([0, 1]);
  });

  it("in any order of calls: pages are never lost, never written by two, and hold what the tokens say", () => {
    const command = fc.record({
      kind: fc.constantFrom(
        "begin",
        "fork",
        "grow",
        "guess",
        "reserve",
        "shift",
        "preempt",
        "retire",
        "discard",
      ),
      which: fc.nat(5),
      tokens: fc.array(fc.nat(1), { minLength: 1, maxLength: 14 }),
    });
    fc.assert(
      fc.property(fc.array(command, { maxLength: 60, size: "max" }), (commands) => {
        const pageTokens = 2;
        const memory = new Int32Array(24).fill(-1);
        /** Slots that remember tokens which were dropped. */
        const stained = new Uint8Array(24);
        const copy = (from: number, to: number): void => {
          memory.copyWithin(to * pageTokens, from * pageTokens, (from + 1) * pageTokens);
          stained.copyWithin(to * pageTokens, from * pageTokens, (from + 1) * pageTokens);
        };
        const slot = (pages: Int32Array, at: number): number =>
          (pages[Math.floor(at / pageTokens)] ?? -1) * pageTokens + (at % pageTokens);
        const move: KvCacheOptions["movePositions"] = ({ source, target, from, to, count }) => {
          for (let i = 0; i < count; i++) {
            memory[slot(target, to + i)] = memory[slot(source, from + i)] ?? -9;
            stained[slot(target, to + i)] = 1;
          }
        };
        const cache = createKvCache({
          pageTokens,
          pages: 12,
          contextLength: 16,
          copyPage: copy,
          movePositions: move,
        });
        const live: Sequence[] = [];
        const guessed = new Map<Sequence, number>();
        const reserve = (sequence: Sequence, count: number): boolean => {
          try {
            return cache.reserve(sequence, count);
          } catch {
            return false;
          }
        };
        const write = (sequence: Sequence, tokens: readonly number[]) => {
          const at = sequence.tokens.length;
          if (!reserve(sequence, tokens.length)) return;
          for (const [i, token] of tokens.entries()) {
            const page = sequence.pages[Math.floor((at + i) / pageTokens)] ?? -1;
            memory[page * pageTokens + ((at + i) % pageTokens)] = token;
            // What follows a stain sees it.
            const before = at + i === 0 ? 0 : (stained[slot(sequence.pages, at + i - 1)] ?? 0);
            stained[page * pageTokens + ((at + i) % pageTokens)] = before;
          }
          cache.append(sequence, tokens);
        };
        for (const { kind, which, tokens } of commands) {
          if (kind === "begin" || kind === "fork") {
            // Forks begin as another text that is there, guesses and all.
            const other = kind === "fork" ? (live[which % Math.max(1, live.length)]?.tokens ?? []) : [];
            const wanted = [...other, ...tokens].slice(0, 14);
            const sequence = cache.begin(wanted);
            live.push(sequence);
            expect(sequence.tokens).toEqual(wanted.slice(0, sequence.tokens.length));
            expect(sequence.tokens.length).toBeLessThan(wanted.length);
            for (const i of sequence.tokens.keys()) expect(stained[slot(sequence.pages, i)]).toBe(0);
            write(sequence, wanted.slice(sequence.tokens.length));
          } else {
            const sequence = live[which % Math.max(1, live.length)];
            if (sequence === undefined) continue;
            // Whoever goes on has settled what it had guessed, some of it wrong.
            const wrong = Math.min(guessed.get(sequence) ?? 0, which);
            guessed.delete(sequence);
            if (kind !== "retire" && kind !== "discard" && kind !== "preempt") cache.settle(sequence, wrong);
            if (kind === "grow") write(sequence, [...sequence.lost, ...tokens].slice(0, tokens.length));
            else if (kind === "guess") {
              if (sequence.lost.length > 0) continue;
              cache.guess(sequence, 1);
              const before = sequence.tokens.length;
              write(sequence, tokens);
              guessed.set(sequence, Math.max(0, sequence.tokens.length - before - 1));
            } else if (kind === "reserve") reserve(sequence, tokens.length);
            else if (kind === "shift") {
              const all = [...sequence.tokens, ...sequence.lost];
              if (all.length === 0) continue;
              const keep = which % all.length;
              const drop = 1 + (tokens.length % (all.length - keep));
              cache.shift(sequence, keep, drop);
              const left = [...all.slice(0, keep), ...all.slice(keep + drop)];
              expect([...sequence.tokens, ...sequence.lost]).toEqual(left);
            } else if (kind === "preempt") {
              const all = [...sequence.tokens, ...sequence.lost];
              cache.preempt(sequence);
              expect([sequence.tokens, sequence.pages.length, sequence.lost]).toEqual([[], 0, all]);
            } else {
              cache[kind as "retire" | "discard"](sequence);
              live.splice(live.indexOf(sequence), 1);
            }
          }
          for (const { tokens: held, pages } of live) {
            const stored = held.map(
              (_, i) => memory[(pages[Math.floor(i / pageTokens)] ?? -1) * pageTokens + (i % pageTokens)],
            );
            expect(stored).toEqual(held);
          }
        }
        for (const sequence of live) cache.discard(sequence);
        // Everything that finished sequences keep can be had.
        const all = cache.fresh();
        cache.reserve(all, 16);
        const other = cache.fresh();
        cache.reserve(other, 8);
        expect(cache.freePages).toBe(0);
      }),
      { numRuns: 300 },
    );
  });
});
