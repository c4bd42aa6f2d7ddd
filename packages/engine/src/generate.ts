import {
  type Completion,
  type FinishReason,
  type GenerateEvent,
  type GenerateRequest,
  type Grammar,
  LowbitError,
  type Timings,
  type TokenConstraint,
  type Tokenizer,
  type ToolCall,
  throwIfAborted,
  type Usage,
} from "@lowbit/core";
import { type Answer, createAnswer } from "./answer.ts";
import { createDraft } from "./draft.ts";
import type { Guesser } from "./guesser.ts";
import type { Sequence } from "./kv-cache.ts";
import { createLookup } from "./lookup.ts";
import type { ModelParts } from "./model-parts.ts";
import { type GenerateSettings, generateSettings } from "./options.ts";
import { createOverflow, type Overflow } from "./overflow.ts";
import { encodePrompt, noTokenizer } from "./prompt.ts";
import type { Runner } from "./runner.ts";
import { createSampler } from "./sampler.ts";

/** Tokens that a draft model guesses where the request doesn't say. */
const draftTokens = 4;

/**
 * One generation as events. The prompt runs in passes of at most `plan.passTokens` tokens, then one token a pass; after each
 * pass other tasks get a turn and the signal is looked at. However it ends, the sequence goes back to the cache.
 */
export async function* generate(
  { runner, tokenizer, grammar, draft }: ModelParts,
  request: GenerateRequest,
): AsyncGenerator<GenerateEvent, void, void> {
  runner.checkAlive();
  const { contextLength } = runner.plan;
  const { vocabularySize } = runner.config;
  const settings = generateSettings("generate", request, vocabularySize);
  throwIfAborted(settings.signal);
  const { tokens: prompt, rendered } = encodePrompt(request, tokenizer, { contextLength, vocabularySize });
  const { responseFormat, tools, toolChoice } = request;
  const form = { responseFormat, tools, toolChoice, rendered };
  const constraint = (settings.constrained ? known(grammar, tokenizer) : grammar)?.constraint(form);
  const answer = createAnswer(tokenizer, settings.stop, grammar?.parser(form));
  const overflow = createOverflow(runner, settings, prompt.length);
  const sequence = runner.cache.begin(prompt);
  const guessTokens = settings.guessTokens ?? (draft ? draftTokens : 0);
  const { signal } = settings;
  const guesser =
    guessTokens > 0 ? (draft ? createDraft(draft, prompt, signal) : createLookup(prompt)) : undefined;
  const ahead = guesser && { guesser, most: guessTokens };
  try {
    const generation = { prompt, constraint, answer, sequence, ahead, overflow };
    yield* run(runner, tokenizer?.endTokens ?? new Set(), settings, generation);
  } finally {
    guesser?.close();
    if (!runner.disposed) runner.cache.retire(sequence);
  }
}

function known(grammar: Grammar | undefined, tokenizer: Tokenizer | undefined): Grammar {
  if (tokenizer === undefined) throw noTokenizer();
  if (grammar) return grammar;
  throw new LowbitError("bad-argument", "This engine cannot keep answers in a form.", {
    reason: "no-grammar",
    hint: "Give createEngine a createGrammar, or leave out responseFormat and toolChoice.",
  });
}

/** What belongs to one generation. */
interface Generation {
  readonly prompt: readonly number[];
  readonly constraint: TokenConstraint | undefined;
  readonly answer: Answer;
  readonly sequence: Sequence;
  readonly overflow: Overflow;
  /** Guesses of at most so many tokens. */
  readonly ahead: { readonly guesser: Guesser; readonly most: number } | undefined;
}

async function* run(
  runner: Runner,
  endTokens: ReadonlySet<number>,
  { sampling, logprobs, topLogprobs, signal }: GenerateSettings,
  { prompt, constraint, answer, sequence, ahead, overflow }: Generation,
): AsyncGenerator<GenerateEvent, void, void> {
  const { plan, platform } = runner;
  const cachedTokens = sequence.tokens.length;
  const sampler = createSampler(sampling, prompt, {
    logprobs,
    topLogprobs,
    ...(constraint && { constraint }),
  });

  const turn = async (): Promise<void> => {
    await platform.yield();
    throwIfAborted(signal);
  };

  const started = platform.now();
  let logits: Float32Array = new Float32Array(0);
  for (let done = cachedTokens; done < prompt.length; ) {
    const chunk = prompt.slice(done, done + plan.passTokens);
    done += chunk.length;
    const rows = done === prompt.length ? [chunk.length - 1] : [];
    logits = await runner.step(sequence, chunk, rows, "logits", signal);
    yield { type: "prompt", done, total: prompt.length };
    await turn();
  }
  const promptMs = platform.now() - started;

  const generating = platform.now();
  const { most } = overflow;
  const { vocabularySize } = runner.config;
  /** What the pass before guessed ahead; `logits` has a row for the token before them and for each of them. */
  let guesses: readonly number[] = [];
  /** Of those, the ones that came true. */
  let right = 0;
  let completionTokens = 0;
  let reason: FinishReason = "length";
  while (completionTokens < most) {
    const row = logits.subarray(right * vocabularySize, (right + 1) * vocabularySize);
    const { id, logprob, top } = sampler.pick(row);
    if (endTokens.has(id)) {
      reason = "end";
      break;
    }
    completionTokens++;
    const { before, text, after, stopped } = answer.push(id);
    yield* before;
    yield { type: "token", id, text, ...(logprob !== undefined && { logprob }), ...(top && { top }) };
    yield* after;
    if (stopped) {
      reason = "stop";
      break;
    }
    if (constraint?.done) {
      reason = "end";
      break;
    }
    if (completionTokens === most) break;
    throwIfAborted(signal);
    ahead?.guesser.push(id);
    if (guesses[right] === id) {
      // Its keys and values are in the cache, and the row behind it has been computed.
      right++;
      continue;
    }
    runner.cache.settle(sequence, guesses.length - right);
    guesses = [];
    right = 0;
    const free = overflow.room(sequence);
    if (ahead !== undefined) {
      const room = Math.min(ahead.most, most - completionTokens - 1, plan.passRows - 1, free - 1);
      if (room > 0) guesses = await ahead.guesser.guess(room);
      runner.checkAlive();
      if (guesses.length > 0) runner.cache.guess(sequence, 1);
    }
    const tokens = [id, ...guesses];
    logits = await runner.step(sequence, tokens, [...tokens.keys()], "logits", signal);
    await turn();
  }
  runner.cache.settle(sequence, guesses.length - right);
  const { before, text, after, stopped } = answer.finish(reason === "stop");
  if (stopped) reason = "stop";
  yield* before;
  yield* after;
  if (reason === "end" && answer.calls > 0) reason = "tool-calls";
  const usage: Usage = { promptTokens: prompt.length, cachedTokens, completionTokens };
  const timings = timingsOf(usage, promptMs, platform.now() - generating);
  yield { type: "finish", reason, text, seed: sampling.seed, usage, timings };
}

/** The events of a generation, awaited whole. */
export async function complete(events: AsyncIterable<GenerateEvent>): Promise<Completion> {
  let text = "";
  let reasoning = "";
  const tokens: number[] = [];
  const toolCalls: ToolCall[] = [];
  for await (const event of events) {
    if (event.type === "reasoning") reasoning += event.text;
    if (event.type === "tool-call") toolCalls.push(event);
    if (event.type !== "token" && event.type !== "finish") continue;
    text += event.text;
    if (event.type === "token") {
      tokens.push(event.id);
      continue;
    }
    const { reason, seed, usage, timings } = event;
    return {
      text,
      tokens,
      reason,
      ...(reasoning !== "" && { reasoning }),
      ...(toolCalls.length > 0 && { toolCalls }),
      seed,
      usage,
      timings,
    };
  }
  throw new TypeError("A generation ended without a finish event.");
}

function timingsOf(usage: Usage, promptMs: number, generateMs: number): Timings {
  const rate = (tokens: number, milliseconds: number): number =>
    milliseconds > 0 ? (tokens * 1000) / milliseconds : 0;
  return {
    promptMs,
    generateMs,
    promptTokensPerSecond: rate(usage.promptTokens - usage.cachedTokens, promptMs),
    tokensPerSecond: rate(usage.completionTokens, generateMs),
  };
}
