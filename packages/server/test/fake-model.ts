import type { GenerateEvent, GenerateRequest } from "@lowbit/core";
import { LowbitError } from "@lowbit/core";
import type { Model } from "@lowbit/engine";
import { createServer, type Server, type ServerOptions } from "../src/index.ts";

export interface FakeModel {
  readonly model: Model;
  readonly requests: GenerateRequest[];
  /** Generations that have begun and not ended. */
  readonly running: () => number;
  /** Tokens yielded by all generations. */
  readonly tokens: () => number;
}

/** The words of a text as token events, and the finish. */
export function words(text: string, reason: "end" | "length" = "end"): GenerateEvent[] {
  const pieces = text.split(/(?<= )/);
  const tokens = pieces.map(
    (piece, id): GenerateEvent => ({ type: "token", id, text: piece, logprob: -0.5 }),
  );
  return [...tokens, finish(pieces.length, reason)];
}

export function finish(
  completionTokens: number,
  reason: "end" | "length" | "tool-calls" = "end",
): GenerateEvent {
  return {
    type: "finish",
    reason,
    text: "",
    seed: 1,
    usage: { promptTokens: 7, cachedTokens: 3, completionTokens },
    timings: { promptMs: 1, generateMs: 1, promptTokensPerSecond: 1, tokensPerSecond: 1 },
  };
}

/** A model that yields what it is told, a turn of the event loop apart; "endless" goes on until it is stopped. */
export function fakeModel(
  script: readonly GenerateEvent[] | "endless" | (() => readonly GenerateEvent[]),
): FakeModel {
  const requests: GenerateRequest[] = [];
  let running = 0;
  let tokens = 0;
  async function* generate(request: GenerateRequest): AsyncGenerator<GenerateEvent, void, void> {
    requests.push(request);
    running++;
    try {
      yield { type: "prompt", done: 7, total: 7 };
      const events = typeof script === "function" ? script() : script;
      for (let i = 0; ; i++) {
        await new Promise((done) => setTimeout(done, 1));
        if (request.signal?.aborted) {
          throw new LowbitError("aborted", "The operation was aborted.", { cause: request.signal.reason });
        }
        const event = events === "endless" ? ({ type: "token", id: i, text: "on " } as const) : events[i];
        if (event === undefined) return;
        if (event.type === "token") tokens++;
        yield event;
      }
    } finally {
      running--;
    }
  }
  const encoder = new TextEncoder();
  const model = {
    info: {
      backend: "fake",
      embeddingSize: 3,
      contextLength: 64,
      architecture: "fake",
      parameters: 1,
      bitsPerWeight: 8,
    },
    tokenizer: {
      encode: (text: string) => [...encoder.encode(text)],
      decode: (ids: number[]) => ids.map((id) => `<${id}>`).join(""),
      bytes: (id: number) => encoder.encode(`<${id}>`),
    },
    generate,
    embed: async (text: string) => Float32Array.of(text.length, 0.5, -1),
    status: () => ({
      running,
      waiting: 0,
      passes: 9,
      pages: 4,
      freePages: 2,
      usedBytes: 1000,
      heldBytes: 1200,
    }),
  } as unknown as Model;
  return { model, requests, running: () => running, tokens: () => tokens };
}

/** A request as clients make it. */
export function post(path: string, body: unknown, init: RequestInit = {}): Request {
  return new Request(`http://server${path}`, {
    method: "POST",
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...init,
    headers: { "content-type": "application/json", ...init.headers },
  });
}

/** A server of one fake model. */
export function served(
  options: Partial<ServerOptions> = {},
  script: Parameters<typeof fakeModel>[0] = words("well met"),
): FakeModel & { server: Server } {
  const fake = fakeModel(script);
  return { ...fake, server: createServer({ model: fake.model, onError: () => undefined, ...options }) };
}

/** Posts a chat to it, and reads the answer. */
export async function ask(
  server: Server,
  body: unknown,
  init?: RequestInit,
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of any shape
): Promise<{ status: number; headers: Headers; body: any }> {
  const response = await server.fetch(post("/v1/chat/completions", body, init));
  return { status: response.status, headers: response.headers, body: await response.json() };
}
