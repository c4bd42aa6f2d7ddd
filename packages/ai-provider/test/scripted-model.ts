import { type GenerateEvent, type GenerateRequest, LowbitError, throwIfAborted } from "@lowbit/core";
import type { EmbedOptions, Model } from "@lowbit/engine";

export interface ScriptedModel {
  readonly model: Model;
  readonly requests: GenerateRequest[];
  readonly embedded: { text: string; options: EmbedOptions | undefined }[];
  /** Generations that have begun and not ended. */
  readonly running: () => number;
  readonly yielded: () => number;
  readonly disposed: () => boolean;
}

/** All that an iterable yields. */
export async function collect<T>(iterable: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const each of iterable) all.push(each);
  return all;
}

export const token = (text: string): GenerateEvent => ({ type: "token", id: 1, text });

export function finish(
  reason: "end" | "stop" | "length" | "tool-calls" = "end",
  completionTokens = 5,
  text = "",
): GenerateEvent {
  return {
    type: "finish",
    reason,
    text,
    seed: 1,
    usage: { promptTokens: 7, cachedTokens: 3, completionTokens },
    timings: { promptMs: 1, generateMs: 2, promptTokensPerSecond: 3, tokensPerSecond: 4 },
  };
}

/** Yields what it is told, a turn of the event loop apart; "endless" goes on until it is stopped, an error is thrown in its place. */
export function scriptedModel(script: readonly (GenerateEvent | Error)[] | "endless"): ScriptedModel {
  const requests: GenerateRequest[] = [];
  const embedded: ScriptedModel["embedded"] = [];
  let running = 0;
  let yielded = 0;
  let disposed = false;
  async function* generate(request: GenerateRequest): AsyncGenerator<GenerateEvent, void, void> {
    requests.push(request);
    running++;
    try {
      for (let i = 0; ; i++) {
        await new Promise((done) => setTimeout(done, 1));
        throwIfAborted(request.signal);
        const event = script === "endless" ? token("on ") : script[i];
        if (event === undefined) return;
        if (event instanceof Error) throw event;
        yielded++;
        yield event;
      }
    } finally {
      running--;
    }
  }
  const model = {
    info: { embeddingSize: 3 },
    tokenizer: { encode: (text: string) => [...text] },
    generate,
    embed: async (text: string, options?: EmbedOptions) => {
      embedded.push({ text, options });
      throwIfAborted(options?.signal);
      if (text === "") throw new LowbitError("bad-argument", "no text");
      return Float32Array.of(text.length, 0.5, -1);
    },
    dispose: async () => {
      disposed = true;
    },
  } as unknown as Model;
  return {
    model,
    requests,
    embedded,
    running: () => running,
    yielded: () => yielded,
    disposed: () => disposed,
  };
}
