import { LowbitError, throwIfAborted } from "@lowbit/core";
import { contextFull } from "./kv-cache.ts";
import { check, isSignal, wrongValue } from "./options.ts";
import { checkTokens } from "./prompt.ts";
import type { Runner } from "./runner.ts";

export interface ForwardOptions {
  /**
   * Tokens whose logits are wanted: the last, all, or those from the first number up to, not including, the second.
   * @default "all"
   */
  rows?: "last" | "all" | readonly [from: number, to: number];
  signal?: AbortSignal;
}

/** Logits of some consecutive tokens. */
export interface LogitRows {
  /** Index of the first token. */
  readonly from: number;
  readonly rows: number;
  /** [rows, vocabularySize] */
  readonly logits: Float32Array;
}

/** Logits piece by piece, in a sequence of their own: memory stays that of one pass, however long the text. */
export async function* forwardRows(
  runner: Runner,
  tokens: ArrayLike<number>,
  options: ForwardOptions = {},
): AsyncGenerator<LogitRows, void, void> {
  const { passTokens, passRows } = runner.plan;
  const [from, to] = wantedRows(runner, tokens, options);
  const { signal } = options;
  const most = Math.min(passTokens, passRows);
  for await (const { from: first, rows, values } of passes(runner, tokens, { from, to, most, signal })) {
    yield { from: first, rows, logits: values };
  }
}

/** All wanted rows at once: [rows, vocabularySize]. */
export async function forward(
  runner: Runner,
  tokens: ArrayLike<number>,
  options: ForwardOptions = {},
): Promise<Float32Array> {
  const [from, to] = wantedRows(runner, tokens, options);
  const { vocabularySize } = runner.config;
  const out = allocate((to - from) * vocabularySize);
  for await (const piece of forwardRows(runner, tokens, options)) {
    out.set(piece.logits, (piece.from - from) * vocabularySize);
  }
  return out;
}

export interface PassOptions {
  /** Rows [from, to) are wanted. */
  readonly from: number;
  readonly to: number;
  /** Most wanted rows of one pass. */
  readonly most: number;
  /** @default "logits" */
  readonly output?: "logits" | "hidden";
  readonly signal: AbortSignal | undefined;
}

/** Runs the tokens up to the last wanted one in a fresh sequence, and yields the wanted rows as they come. */
export async function* passes(
  runner: Runner,
  tokens: ArrayLike<number>,
  { from, to, most, output = "logits", signal }: PassOptions,
): AsyncGenerator<{ from: number; rows: number; values: Float32Array }, void, void> {
  // An encoder's tokens see those behind them too: one pass has to hold the whole text.
  const whole = runner.config.causal === false;
  const end = whole ? tokens.length : to;
  const sequence = runner.cache.fresh();
  try {
    for (let start = 0; start < end; ) {
      throwIfAborted(signal);
      const unwanted = Math.max(0, from - start);
      const size = whole ? end : Math.min(runner.plan.passTokens, unwanted + most);
      const stop = Math.min(end, start + size);
      const chunk = Array.from({ length: stop - start }, (_, i) => tokens[start + i] ?? 0);
      const rows = chunk.map((_, i) => i).filter((i) => start + i >= from && start + i < to);
      const values = await runner.step(sequence, chunk, rows, output, signal);
      if (rows.length > 0) yield { from: start + (rows[0] ?? 0), rows: rows.length, values };
      start = stop;
      await runner.platform.yield();
    }
  } finally {
    if (!runner.disposed) runner.cache.discard(sequence);
  }
}

/** Throws `bad-argument` or `context-full` unless these tokens can be run. */
export function checkText(runner: Runner, tokens: ArrayLike<number>): void {
  runner.checkAlive();
  if (typeof tokens !== "object" || tokens === null || typeof tokens.length !== "number") {
    throw wrongValue("forward", "tokens", tokens, "an array of token ids");
  }
  checkTokens(tokens, runner.config.vocabularySize);
  if (tokens.length > runner.plan.contextLength) throw contextFull(tokens.length, runner.plan.contextLength);
}

/** The wanted rows [from, to). */
function wantedRows(
  runner: Runner,
  tokens: ArrayLike<number>,
  options: ForwardOptions,
): readonly [from: number, to: number] {
  check("forward", options, {
    rows: (value) =>
      value === "last" || value === "all" || Array.isArray(value) ? undefined : '"last", "all" or [from, to]',
    signal: isSignal,
  });
  checkText(runner, tokens);
  const count = tokens.length;
  const { rows = "all" } = options;
  if (rows === "all") return [0, count];
  if (rows === "last") return [count - 1, count];
  const [from, to] = rows;
  const whole = Number.isInteger(from) && Number.isInteger(to) && rows.length === 2;
  if (!whole || from < 0 || from >= to || to > count) {
    throw wrongValue("forward", "rows", rows, `[from, to] with 0 ≤ from < to ≤ ${count}`);
  }
  return [from, to];
}

function allocate(length: number): Float32Array {
  try {
    return new Float32Array(length);
  } catch (error) {
    throw new LowbitError("out-of-memory", `${length * 4} bytes of logits cannot be held at once.`, {
      reason: "logits",
      hint: "Ask for fewer rows, or take them piece by piece with forwardRows.",
      cause: error,
    });
  }
}
