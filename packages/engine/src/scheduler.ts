import { LowbitError, type Platform, type TokenBatch, throwIfAborted } from "@lowbit/core";
import type { KvCache, Sequence } from "./kv-cache.ts";

/** What a pass reads back for its rows. */
export type Output = "logits" | "hidden";

/** Tokens to append to a sequence. `rows` index into `tokens` and rise. */
export interface Step {
  readonly sequence: Sequence;
  readonly tokens: readonly number[];
  readonly rows: readonly number[];
  readonly output: Output;
  readonly signal: AbortSignal | undefined;
}

export interface SchedulerParts {
  readonly platform: Pick<Platform, "yield">;
  readonly cache: KvCache;
  /** Most tokens of one pass. */
  readonly passTokens: number;
  /** Most rows of logits of one pass. */
  readonly passRows: number;
  /** Encoders: a step runs in one piece. */
  readonly whole: boolean;
  /** Runs one pass and reads the rows: [rows.length, width]. */
  run(batch: TokenBatch, rows: Int32Array, output: Output): Promise<Float32Array>;
}

/**
 * Continuous batching: whatever steps have come while a pass ran go into the next one together. Single tokens first, then prompts, in
 * the order in which they came and in pieces, until the pass is full. Rows of a pass do not influence each other, so a step's result is
 * the same to the last bit whoever it shares passes with.
 *
 * When the cache has no pages left, steps wait for others to finish. When nobody can go on, the youngest sequences lose their
 * pages, so that the oldest goes on, and are computed anew later.
 */
export interface Scheduler {
  /** A row for each of `rows`. Throws `context-full` or `aborted`, and whatever the pass threw. */
  step(step: Step): Promise<Float32Array>;
  /** Steps that wait for a pass. */
  readonly waiting: number;
  /** Passes run so far. */
  readonly passes: number;
  /** Rejects what waits, and waits for the pass in flight. */
  close(reason: Error): Promise<void>;
}

interface Job extends Step {
  /** Tokens computed. */
  done: number;
  /** Rows that have their values. */
  filled: number;
  values: Float32Array | undefined;
  resolve(values: Float32Array): void;
  reject(error: unknown): void;
}

/** What of a job runs in a pass: the next `tokens`, with rows as indices into them. */
interface Part {
  readonly job: Job;
  readonly tokens: readonly number[];
  readonly rows: readonly number[];
}

/** Turns of the event loop that a pass waits for the sequences of the one before. */
const lingerTurns = 4;

export function createScheduler(parts: SchedulerParts): Scheduler {
  const { platform, cache, passTokens, passRows, whole, run } = parts;
  let jobs: Job[] = [];
  /** Sequences of the last pass that will probably be back at once. */
  const expected = new Set<Sequence>();
  let wake: (() => void) | undefined;
  let active: Promise<void> | undefined;
  let closed: Error | undefined;
  let passes = 0;

  const fail = (job: Job, error: unknown): void => {
    jobs = jobs.filter((other) => other !== job);
    job.reject(error);
  };

  /** Rejects the job if `body` throws; its result, or undefined. */
  const attempt = <T>(job: Job, body: () => T): T | undefined => {
    try {
      return body();
    } catch (error) {
      fail(job, error);
      return undefined;
    }
  };

  const partOf = (job: Job, tokenRoom: number, rowRoom: number): Part => {
    // A sequence that lost its pages begins with what it has lost.
    const { lost } = job.sequence;
    const offset = lost.length - job.done;
    let count = Math.min(tokenRoom, lost.length + job.tokens.length - job.done);
    const excess = job.rows[job.filled + rowRoom];
    if (!whole && excess !== undefined) count = Math.min(count, excess + offset);
    const own = job.tokens.slice(job.done, job.done + Math.max(0, count - lost.length));
    const tokens = [...lost.slice(0, count), ...own];
    const rows: number[] = [];
    for (let i = job.filled; i < job.rows.length; i++) {
      const row = (job.rows[i] ?? 0) + offset;
      if (row >= count) break;
      rows.push(row);
    }
    return { job, tokens, rows };
  };

  /** The next pass: `first` if given, then whoever fits. Empty if nobody can go on. */
  const compose = (first?: Job): Part[] => {
    for (const job of jobs) attempt(job, () => throwIfAborted(job.signal));
    const withRows = (job: Job): boolean => job.rows.length > 0;
    const output = first && withRows(first) ? first.output : jobs.find(withRows)?.output;
    const single = (job: Job): boolean => job.sequence.lost.length + job.tokens.length - job.done === 1;
    const singles = jobs.filter(single);
    const longer = jobs.filter((job) => !single(job));
    const chosen: Part[] = [];
    const taken = new Set<Sequence>();
    let tokenRoom = passTokens;
    let rowRoom = output === "logits" ? passRows : passTokens;
    /** Whether the cache had room for it. */
    const add = (job: Job, most: number): boolean => {
      if (taken.has(job.sequence) || (withRows(job) && job.output !== output)) return true;
      const part = partOf(job, Math.min(most, tokenRoom), rowRoom);
      const cut = whole && (part.tokens.length < job.tokens.length || part.rows.length > rowRoom);
      if (part.tokens.length === 0 || (cut && chosen.length > 0)) return true;
      const room = attempt(job, () => cache.reserve(job.sequence, part.tokens.length));
      if (room !== true) return room === undefined;
      taken.add(job.sequence);
      chosen.push(part);
      tokenRoom -= part.tokens.length;
      rowRoom -= part.rows.length;
      return true;
    };
    if (first) add(first, passTokens);
    // However many texts are being continued, a quarter is left for those that have not begun.
    const kept = longer.length > 0 ? passTokens >> 2 : 0;
    for (const job of singles) if (tokenRoom > kept) add(job, 1);
    // A long text that waits for pages is not overtaken by shorter ones for ever.
    for (const job of longer) if (tokenRoom > 0 && !add(job, passTokens)) break;
    return chosen;
  };

  /** Nobody can go on: makes room for the oldest sequence that waits, at the cost of the youngest. */
  const makeRoom = (): Job | undefined => {
    const bySequence = new Map(jobs.map((job) => [job.sequence, job]));
    const sequences = [...cache.sequences()];
    const oldest = sequences.map((sequence) => bySequence.get(sequence)).find((job) => job !== undefined);
    if (oldest === undefined) return undefined;
    const { tokens } = partOf(oldest, passTokens, passRows);
    const others = sequences.filter((each) => each !== oldest.sequence && each.pages.length > 0).reverse();
    // Those that nobody waits for go first.
    const victims = [
      ...others.filter((each) => !bySequence.has(each)),
      ...others.filter((each) => bySequence.has(each)),
    ];
    const enough = (): boolean | undefined =>
      attempt(oldest, () => cache.reserve(oldest.sequence, tokens.length));
    for (let room = enough(); room === false; room = enough()) {
      const victim = victims.shift();
      if (victim === undefined) throw new LowbitError("internal", "The cache holds less than one context.");
      cache.preempt(victim);
    }
    return oldest;
  };

  const pass = async (chosen: readonly Part[]): Promise<void> => {
    const output = chosen.find(({ rows }) => rows.length > 0)?.job.output;
    const { batch, rows } = batchOf(chosen);
    let values: Float32Array;
    try {
      passes++;
      // A pass without rows still ends in one, the cheapest: a hidden state is no vocabulary of logits.
      const wanted = output === undefined ? [batch.tokens.length - 1] : rows;
      values = await run(batch, Int32Array.from(wanted), output ?? "hidden");
    } catch (error) {
      const [only, ...others] = chosen;
      if (only && others.length === 0) fail(only.job, error);
      // Each by itself, so that only the one to blame fails. Nothing has been appended: they write the same places again.
      else for (const part of chosen) await pass([part]);
      return;
    }
    const width = rows.length === 0 ? 0 : values.length / rows.length;
    let from = 0;
    for (const part of chosen) {
      const count = part.rows.length;
      settle(part, values.subarray(from * width, (from + count) * width), width);
      from += count;
    }
  };

  const settle = ({ job, tokens, rows }: Part, values: Float32Array, width: number): void => {
    const repeated = Math.min(job.sequence.lost.length, tokens.length);
    cache.append(job.sequence, tokens);
    job.done += tokens.length - repeated;
    if (rows.length > 0) {
      // Whoever gets all rows of a pass needs no copy.
      const all = rows.length === job.rows.length;
      if (all) job.values = values.length === values.buffer.byteLength / 4 ? values : values.slice();
      else {
        job.values ??= new Float32Array(job.rows.length * width);
        job.values.set(values, job.filled * width);
      }
      job.filled += rows.length;
    }
    if (job.done < job.tokens.length) return;
    jobs = jobs.filter((other) => other !== job);
    expected.add(job.sequence);
    job.resolve(job.values ?? new Float32Array(0));
  };

  const linger = async (): Promise<void> => {
    for (let turn = 0; turn < lingerTurns; turn++) {
      for (const sequence of expected) if (!cache.has(sequence)) expected.delete(sequence);
      if (expected.size === 0) break;
      const back = new Promise<void>((done) => {
        wake = done;
      });
      await Promise.race([platform.yield(), back]);
    }
    wake = undefined;
    expected.clear();
  };

  const loop = async (): Promise<void> => {
    // Steps that come in the same turn run in the same pass.
    await undefined;
    while (jobs.length > 0 && closed === undefined) {
      await linger();
      if (closed !== undefined) break;
      let chosen = compose();
      if (chosen.length === 0 && jobs.length > 0) {
        const first = makeRoom();
        chosen = compose(first);
      }
      if (chosen.length > 0) await pass(chosen);
    }
  };

  const start = (): void => {
    active ??= loop()
      .catch((error) => {
        for (const job of jobs) job.reject(error);
        jobs = [];
      })
      .finally(() => {
        active = undefined;
        if (jobs.length > 0 && closed === undefined) start();
      });
  };

  return {
    get waiting() {
      return jobs.length;
    },
    get passes() {
      return passes;
    },
    step(step) {
      if (closed !== undefined) return Promise.reject(closed);
      return new Promise((resolve, reject) => {
        jobs.push({ ...step, done: 0, filled: 0, values: undefined, resolve, reject });
        if (expected.delete(step.sequence) && expected.size === 0) wake?.();
        start();
      });
    },
    async close(reason) {
      closed = reason;
      wake?.();
      // Those in the pass in flight get their results.
      await active;
      for (const job of jobs) job.reject(reason);
      jobs = [];
    },
  };
}

function batchOf(chosen: readonly Part[]): { batch: TokenBatch; rows: number[] } {
  const total = chosen.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const tokens = new Int32Array(total);
  const positions = new Int32Array(total);
  const sequences = new Int32Array(total);
  const rows: number[] = [];
  let at = 0;
  for (const [index, part] of chosen.entries()) {
    const start = part.job.sequence.tokens.length;
    for (const row of part.rows) rows.push(at + row);
    for (const [i, token] of part.tokens.entries()) {
      tokens[at] = token;
      positions[at] = start + i;
      sequences[at++] = index;
    }
  }
  return {
    batch: { tokens, positions, sequences, pages: chosen.map(({ job }) => job.sequence.pages) },
    rows,
  };
}
