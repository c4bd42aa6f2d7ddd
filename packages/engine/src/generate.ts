import {
  type Completion,
  type GenerateEvent,
  type GenerateRequest,
  type Timings,
  type Tokenizer,
  throwIfAborted,
  type Usage,
} from "@lowbit/core";
import type { Sequence } from "./kv-cache.ts";
import { type GenerateSettings, generateSettings } from "./options.ts";
import { promptTokens } from "./prompt.ts";
import type { Runner } from "./runner.ts";
import { createSampler } from "./sampler.ts";
import { createStopMatcher } from "./stop.ts";

/**
 * One generation as events. The prompt runs in passes of at most `plan.passTokens` tokens, then one token a pass; after each
 * pass other tasks get a turn and the signal is looked at. However it ends, the sequence goes back to the cache.
 */
export async function* generate(
  runner: Runner,
  tokenizer: Tokenizer | undefined,
  request: GenerateRequest,
): AsyncGenerator<GenerateEvent, void, void> {
  runner.checkAlive();
  const { contextLength } = runner.plan;
  const { vocabularySize } = runner.config;
  const settings = generateSettings("generate", request, vocabularySize);
  throwIfAborted(settings.signal);
  const prompt = promptTokens(request, tokenizer, { contextLength, vocabularySize });
  const sequence = runner.cache.begin(prompt);
  try {
    yield* run(runner, tokenizer, settings, prompt, sequence);
  } finally {
    if (!runner.disposed) runner.cache.retire(sequence);
  }
}

async function* run(
  runner: Runner,
  tokenizer: Tokenizer | undefined,
  { sampling, maxTokens, stop, logprobs, signal }: GenerateSettings,
  prompt: readonly number[],
  sequence: Sequence,
): AsyncGenerator<GenerateEvent, void, void> {
  const { plan, platform } = runner;
  const cachedTokens = sequence.tokens.length;
  const sampler = createSampler(sampling, prompt, { logprobs });
  const decoder = tokenizer?.stream();
  const stops = createStopMatcher(stop);
  const endTokens = tokenizer?.endTokens ?? new Set<number>();

  const turn = async (): Promise<void> => {
    await platform.yield();
    throwIfAborted(signal);
  };

  const started = platform.now();
  let logits: Float32Array = new Float32Array(0);
  for (let done = cachedTokens; done < prompt.length; ) {
    const chunk = prompt.slice(done, done + plan.passTokens);
    done += chunk.length;
    logits = await runner.step(sequence, chunk, done === prompt.length ? [chunk.length - 1] : []);
    yield { type: "prompt", done, total: prompt.length };
    await turn();
  }
  const promptMs = platform.now() - started;

  const generating = platform.now();
  const most = Math.min(maxTokens, plan.contextLength - prompt.length + 1);
  let completionTokens = 0;
  let reason: "end" | "stop" | "length" = "length";
  while (completionTokens < most) {
    const { id, logprob } = sampler.pick(logits);
    if (endTokens.has(id)) {
      reason = "end";
      break;
    }
    completionTokens++;
    const { text, stopped } = stops.push(decoder?.push(id) ?? "");
    yield { type: "token", id, text, ...(logprob !== undefined && { logprob }) };
    if (stopped) {
      reason = "stop";
      break;
    }
    if (completionTokens === most) break;
    throwIfAborted(signal);
    logits = await runner.step(sequence, [id], [0]);
    await turn();
  }
  let text = "";
  if (reason !== "stop") {
    const last = stops.push(decoder?.flush() ?? "");
    text = last.text + stops.flush();
    if (last.stopped) reason = "stop";
  }
  const usage: Usage = { promptTokens: prompt.length, cachedTokens, completionTokens };
  const timings = timingsOf(usage, promptMs, platform.now() - generating);
  yield { type: "finish", reason, text, seed: sampling.seed, usage, timings };
}

/** The events of a generation, awaited whole. */
export async function complete(events: AsyncIterable<GenerateEvent>): Promise<Completion> {
  let text = "";
  const tokens: number[] = [];
  for await (const event of events) {
    if (event.type === "prompt") continue;
    text += event.text;
    if (event.type === "token") {
      tokens.push(event.id);
      continue;
    }
    const { reason, seed, usage, timings } = event;
    return { text, tokens, reason, seed, usage, timings };
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
