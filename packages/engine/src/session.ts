import { type ChatMessage, LowbitError, type Tokenizer, throwIfAborted } from "@lowbit/core";
import type { Sequence } from "./kv-cache.ts";
import { check, isSignal, requestRules } from "./options.ts";
import { encodePrompt } from "./prompt.ts";
import type { Runner } from "./runner.ts";
import { chained, encodeHead, openSession, pageSizes } from "./session-format.ts";

export interface SessionOptions {
  /** The text to save, as for `generate`; what of it is not in the cache is computed. Without text: the one that ended last. */
  prompt?: string | readonly number[];
  messages?: readonly ChatMessage[];
  tools?: readonly unknown[];
  /** Comes back when the session is restored: the messages of a conversation as JSON, for example. At most 16 MiB. */
  note?: string;
  signal?: AbortSignal;
}

export interface RestoredSession {
  /** A generation whose prompt begins like them starts from the cache. */
  readonly tokens: readonly number[];
  /** "" where none was given. */
  readonly note: string;
}

/** A session in pieces: its head, then two for each page. No more than a page is held at once. */
export async function* sessionPieces(
  runner: Runner,
  tokenizer: Tokenizer | undefined,
  options: SessionOptions = {},
): AsyncGenerator<Uint8Array, void, void> {
  runner.checkAlive();
  const tokens = tokensOf(runner, tokenizer, options);
  const { signal, note = "" } = options;
  const { kv } = runner.plan;
  throwIfAborted(signal);
  const head = await encodeHead({ kv, identity: await runner.identity(), tokens, note });
  runner.checkAlive();
  const sequence = runner.cache.begin(tokens);
  try {
    const missing = tokens.slice(sequence.tokens.length);
    await runner.step(sequence, missing, [], "logits", signal);
    yield head;
    let digest = head.subarray(-32);
    for (const [page, size] of pageSizes(kv, tokens.length).entries()) {
      await regain(runner, sequence, signal);
      const count = Math.min(kv.pageTokens, tokens.length - page * kv.pageTokens);
      const bytes = await runner.readPage(sequence.pages[page] ?? -1, count);
      if (bytes.length !== size)
        throw new LowbitError("internal", `A page has ${bytes.length} bytes, not ${size}.`);
      digest = await chained(digest, bytes);
      yield bytes;
      yield digest;
    }
  } finally {
    if (!runner.disposed) runner.cache.retire(sequence);
  }
}

/** The same as one array. */
export async function saveSession(
  runner: Runner,
  tokenizer: Tokenizer | undefined,
  options?: SessionOptions,
): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of sessionPieces(runner, tokenizer, options)) pieces.push(piece);
  const whole = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** Others may have taken its pages while nobody waited for it. */
async function regain(runner: Runner, sequence: Sequence, signal: AbortSignal | undefined): Promise<void> {
  throwIfAborted(signal);
  runner.checkAlive();
  while (sequence.lost.length > 0) await runner.step(sequence, [], [], "logits", signal);
}

function tokensOf(
  runner: Runner,
  tokenizer: Tokenizer | undefined,
  options: SessionOptions,
): readonly number[] {
  const { prompt, messages, tools } = requestRules;
  check("saveSession", options, {
    ...{ prompt, messages, tools, signal: isSignal },
    note: (value) => (typeof value === "string" ? undefined : "a string"),
  });
  if (runner.config.causal === false) {
    throw new LowbitError("bad-argument", "saveSession: an encoder keeps nothing between passes.", {
      reason: "encoder",
    });
  }
  const { contextLength } = runner.plan;
  const { vocabularySize } = runner.config;
  if (options.prompt !== undefined || options.messages !== undefined) {
    return encodePrompt(options, tokenizer, { contextLength, vocabularySize }).tokens;
  }
  const latest = runner.cache.latest();
  if (latest !== undefined) return latest;
  throw new LowbitError("bad-argument", "saveSession: no text has ended yet, or its place was needed.", {
    reason: "no-session",
    hint: "Give prompt or messages.",
  });
}

/** Checks everything, then puts the text into the cache as one that has just ended. Until then nothing changes. */
export async function restoreSession(runner: Runner, bytes: Uint8Array): Promise<RestoredSession> {
  runner.checkAlive();
  if (!(bytes instanceof Uint8Array)) {
    throw new LowbitError("bad-argument", "restoreSession takes the bytes of a session, as a Uint8Array.", {
      reason: "bytes",
    });
  }
  const { kv, contextLength } = runner.plan;
  const identity = await runner.identity();
  const { vocabularySize } = runner.config;
  const { tokens, note, pages } = await openSession(bytes, { kv, identity, contextLength, vocabularySize });
  runner.checkAlive();
  // No turn of the event loop from here on: nobody sees a sequence half filled.
  const sequence = runner.cache.fresh();
  try {
    if (!runner.cache.reserve(sequence, tokens.length)) {
      throw new LowbitError("context-full", "Texts in work leave no room for the session.", {
        reason: "cache-in-use",
        hint: "Wait for them, or load the model with more sequences.",
      });
    }
    for (const [i, page] of pages.entries()) {
      const count = Math.min(kv.pageTokens, tokens.length - i * kv.pageTokens);
      runner.writePage(sequence.pages[i] ?? -1, count, page);
    }
    runner.cache.append(sequence, tokens);
  } catch (error) {
    runner.cache.discard(sequence);
    throw error;
  }
  runner.cache.retire(sequence);
  return { tokens, note };
}
