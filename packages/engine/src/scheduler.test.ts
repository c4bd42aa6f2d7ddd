import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createKvCache, type Sequence } from "./kv-cache.ts";
import { createScheduler, type Output, type Scheduler, type SchedulerParts } from "./scheduler.ts";

/** A model whose row for a token is a hash of all tokens up to it, as the cache's pages hold them. */
function fixture(options: Partial<SchedulerParts & { pages: number; contextLength: number }> = {}) {
  const pageTokens = 4;
  const { pages = 64, contextLength = 64 } = options;
  const cache = createKvCache({
    pageTokens,
    pages,
    contextLength,
    copyPage: () => undefined,
    movePositions: () => undefined,
  });
  const memory = new Int32Array(pages * pageTokens).fill(-1);
  const sizes: number[][] = [];
  const outputs: Output[] = [];
  let inside = false;
  const scheduler = createScheduler({
    platform: { yield: () => new Promise((done) => setImmediate(done)) },
    cache,
    passTokens: 16,
    passRows: 8,
    whole: false,
    async run(batch, rows, output) {
      expect(inside).toBe(false);
      inside = true;
      const counts = batch.pages.map((_, s) => batch.sequences.filter((each) => each === s).length);
      sizes.push(counts);
      outputs.push(output);
      const place = (row: number, position: number) =>
        (batch.pages[batch.sequences[row] ?? -1]?.[Math.floor(position / pageTokens)] ?? -1) * pageTokens +
        (position % pageTokens);
      for (const [i, token] of batch.tokens.entries()) memory[place(i, batch.positions[i] ?? 0)] = token;
      await new Promise((done) => setImmediate(done));
      inside = false;
      return Float32Array.from([...rows], (row) => {
        const length = (batch.positions[row] ?? 0) + 1;
        return hash(Array.from({ length }, (_, position) => memory[place(row, position)] ?? -1));
      });
    },
    ...options,
  });
  return { cache, scheduler, sizes, outputs };
}

function hash(tokens: readonly number[]): number {
  let value = 7;
  for (const token of tokens) value = (Math.imul(value, 31) + token) & 0xffffff;
  return value;
}

const count = (length: number, from = 0): number[] => Array.from({ length }, (_, i) => from + i);

const step = (
  scheduler: Scheduler,
  sequence: Sequence,
  tokens: readonly number[],
  more: { rows?: number[]; output?: Output; signal?: AbortSignal } = {},
): Promise<Float32Array> =>
  scheduler.step({
    sequence,
    tokens,
    rows: more.rows ?? [tokens.length - 1],
    output: more.output ?? "logits",
    signal: more.signal,
  });

describe("scheduler", () => {
  it("puts steps of the same turn into one pass, single tokens before texts", async () => {
    const { cache, scheduler, sizes } = fixture();
    const [a, b, c] = [cache.fresh(), cache.fresh(), cache.fresh()];
    const results = await Promise.all([
      step(scheduler, a, count(14)),
      step(scheduler, b, [1]),
      step(scheduler, c, [2]),
    ]);
    expect(results.map(([value]) => value)).toEqual([hash(count(14)), hash([1]), hash([2])]);
    expect(sizes).toEqual([[1, 1, 14]]);
  });

  it("merges what comes while a pass runs, and cuts texts to what is free", async () => {
    const { cache, scheduler, sizes } = fixture();
    const [a, b, c] = [cache.fresh(), cache.fresh(), cache.fresh()];
    const first = step(scheduler, a, [5]);
    await new Promise((done) => setImmediate(done));
    const second = step(scheduler, b, count(20));
    const third = step(scheduler, c, [6], { rows: [] });
    await first;
    const fourth = step(scheduler, a, [7]);
    expect([...(await second)]).toEqual([hash(count(20))]);
    expect([...(await fourth)]).toEqual([hash([5, 7])]);
    expect((await third).length).toBe(0);
    expect(sizes).toEqual([[1], [1, 1, 14], [6]]);
  });

  it("gives rows from several passes in order, no more than a pass may read", async () => {
    const { cache, scheduler, sizes } = fixture();
    const rows = count(20, 3);
    const values = await step(scheduler, cache.fresh(), count(30), { rows });
    expect([...values]).toEqual(rows.map((row) => hash(count(row + 1))));
    expect(sizes.map(([size]) => size)).toEqual([11, 8, 11]);
  });

  it("does not mix logits and hidden states, and starves neither", async () => {
    const { cache, scheduler, outputs } = fixture();
    const talk = async (output: Output) => {
      const sequence = cache.fresh();
      for (let i = 0; i < 4; i++) await step(scheduler, sequence, [i], { output });
    };
    await Promise.all([talk("logits"), talk("hidden"), talk("logits")]);
    expect(outputs.filter((output) => output === "hidden").length).toBe(4);
    expect(outputs.length).toBe(8);
  });

  it("waits for the sequences of the last pass, so that they stay together", async () => {
    const { cache, scheduler, sizes } = fixture();
    const talk = async () => {
      const sequence = cache.fresh();
      for (let i = 0; i < 5; i++) {
        await step(scheduler, sequence, [i]);
        await new Promise((done) => setImmediate(done));
      }
      cache.discard(sequence);
    };
    await Promise.all([talk(), talk(), talk()]);
    expect(sizes).toEqual(Array.from({ length: 5 }, () => [1, 1, 1]));
  });

  it("leaves prompts a share however many texts are being continued", async () => {
    const { cache, scheduler } = fixture({ pages: 256, passRows: 16 });
    let running = true;
    const endless = async () => {
      const sequence = cache.fresh();
      for (let i = 0; running && i < 60; i++) await step(scheduler, sequence, [1]);
    };
    const all = Promise.all(count(40).map(endless));
    const before = scheduler.passes;
    expect([...(await step(scheduler, cache.fresh(), count(12)))]).toEqual([hash(count(12))]);
    expect(scheduler.passes - before).toBeLessThan(8);
    running = false;
    await all;
  });

  it("rejects only the step to blame when a pass fails", async () => {
    let calls = 0;
    const { cache, scheduler } = fixture({
      run: async (batch, rows) => {
        calls++;
        if (batch.tokens.includes(13)) throw new Error("unlucky");
        return Float32Array.from(rows, (row) => batch.tokens[row] ?? -1);
      },
    });
    const results = await Promise.allSettled([1, 13, 2].map((id) => step(scheduler, cache.fresh(), [id])));
    expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(results[1]).toMatchObject({ reason: expect.objectContaining({ message: "unlucky" }) });
    expect(calls).toBe(4);
    expect([...(await step(scheduler, cache.fresh(), [3]))]).toEqual([3]);
  });

  it("drops an aborted step before its pass, also between the pieces of a text", async () => {
    const { cache, scheduler, sizes } = fixture();
    const controller = new AbortController();
    const sequence = cache.fresh();
    const long = step(scheduler, sequence, count(60), { signal: controller.signal });
    const failed = expect(long).rejects.toMatchObject({ code: "aborted" });
    await new Promise((done) => setImmediate(done));
    controller.abort();
    await failed;
    expect(sizes.length).toBe(1);
    expect(sequence.tokens.length).toBe(16);
  });

  it("rejects a text longer than a context, alone", async () => {
    const { cache, scheduler } = fixture({ contextLength: 8 });
    const results = await Promise.allSettled([
      step(scheduler, cache.fresh(), count(9)),
      step(scheduler, cache.fresh(), count(8)),
    ]);
    expect(results.map(({ status }) => status)).toEqual(["rejected", "fulfilled"]);
    expect(results[0]).toMatchObject({ reason: { code: "context-full" } });
  });

  it("runs the texts of encoders in one piece each", async () => {
    const { cache, scheduler, sizes } = fixture({ whole: true });
    const texts = [9, 9, 4];
    const rows = await Promise.all(
      texts.map((length) =>
        step(scheduler, cache.fresh(), count(length), { output: "hidden", rows: count(length) }),
      ),
    );
    expect(rows.map(({ length }) => length)).toEqual(texts);
    expect(sizes).toEqual([[9, 4], [9]]);
  });

  it("rejects what waits when it is closed, after the pass in flight", async () => {
    const { cache, scheduler, sizes } = fixture();
    const running = step(scheduler, cache.fresh(), [1]);
    await new Promise((done) => setImmediate(done));
    const waiting = step(scheduler, cache.fresh(), [2]);
    const failed = expect(waiting).rejects.toThrow("over");
    await scheduler.close(new Error("over"));
    expect([...(await running)]).toEqual([hash([1])]);
    await failed;
    await expect(step(scheduler, cache.fresh(), [3])).rejects.toThrow("over");
    expect(sizes).toEqual([[1]]);
  });
});

describe("a cache that is too small for all", () => {
  it("lets the later text wait", async () => {
    const { cache, scheduler } = fixture({ pages: 4, contextLength: 16 });
    const order: number[] = [];
    const talk = async (id: number) => {
      const sequence = cache.fresh();
      const tokens = count(12, id * 100);
      let value = await step(scheduler, sequence, tokens);
      for (let i = 0; i < 3; i++) {
        expect([...value]).toEqual([hash(tokens)]);
        tokens.push(i);
        value = await step(scheduler, sequence, [i]);
      }
      order.push(id);
      cache.discard(sequence);
    };
    await Promise.all([talk(1), talk(2), talk(3)]);
    expect(order).toEqual([1, 2, 3]);
    expect(cache.freePages).toBe(4);
  });

  it("takes pages from a text that nobody goes on with, which is computed anew when somebody does", async () => {
    const { cache, scheduler } = fixture({ pages: 4, contextLength: 16 });
    const idle = cache.fresh();
    await step(scheduler, idle, count(10));
    expect([...(await step(scheduler, cache.fresh(), count(16, 50)))]).toEqual([hash(count(16, 50))]);
    expect([idle.tokens, idle.lost]).toEqual([[], count(10)]);
    expect([...(await step(scheduler, idle, [10]))]).toEqual([hash(count(11))]);
    expect([idle.tokens, idle.lost]).toEqual([count(11), []]);
  });

  it("in any mix of texts, cache sizes and aborts: everybody gets what they would alone, and all pages come back", async () => {
    const text = fc.record({
      prompt: fc.integer({ min: 1, max: 30 }),
      answer: fc.integer({ min: 0, max: 12 }),
      delay: fc.nat(6),
      abortAfter: fc.option(fc.nat(12)),
      pause: fc.nat(6),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(text, { minLength: 1, maxLength: 10 }),
        fc.integer({ min: 11, max: 30 }),
        async (texts, pages) => {
          const { cache, scheduler } = fixture({ pages, contextLength: 44 });
          const turn = () => new Promise((done) => setImmediate(done));
          const talk = async (
            { prompt, answer, delay, abortAfter, pause }: (typeof texts)[number],
            id: number,
          ) => {
            for (let i = 0; i < delay; i++) await turn();
            const tokens = count(prompt, id);
            const sequence = cache.begin(tokens);
            const controller = new AbortController();
            const { signal } = controller;
            try {
              let [value] = await step(scheduler, sequence, tokens.slice(sequence.tokens.length), { signal });
              for (let i = 0; i < answer; i++) {
                expect(value).toBe(hash(tokens));
                if (i === abortAfter) controller.abort();
                if (i === pause) for (let turns = 0; turns < 12; turns++) await turn();
                tokens.push(i);
                [value] = await step(scheduler, sequence, [i], { signal });
              }
              expect(value).toBe(hash(tokens));
            } catch (error) {
              if (!signal.aborted) throw error;
            }
            cache.retire(sequence);
          };
          await Promise.all(texts.map(talk));
          expect([cache.running, scheduler.waiting]).toEqual([0, 0]);
          const all = cache.fresh();
          expect(cache.reserve(all, 44)).toBe(true);
        },
      ),
      { numRuns: 150 },
    );
  });
});
