import type { GenerateEvent, GenerateRequest } from "@lowbit/core";
import type { Model } from "@lowbit/engine";
import { ApiError, apiError, errorBody } from "./errors.ts";
import type { Metrics } from "./metrics.ts";
import type { Slots } from "./slots.ts";

export interface Limits {
  /** Requests that run at the same time. @default 8 */
  parallel?: number;
  /** Requests that wait for one of them to end; more are answered 429. @default 128 */
  queue?: number;
  /** Largest body. @default 4 MiB */
  bodyBytes?: number;
  /** Longest prompt. @default what fits the model's context */
  promptTokens?: number;
  /** Longest answer. @default what fits the model's context */
  completionTokens?: number;
  /** Texts of one request for embeddings. @default 256 */
  inputs?: number;
  /** Longest time from a request to the end of its answer. @default 600,000 */
  timeoutMs?: number;
}

/** What requests share. */
export interface Shared {
  readonly slots: Slots;
  readonly metrics: Metrics;
  readonly limits: Required<Limits>;
  /** Requests in work, so that a shutdown can end them. */
  readonly live: Set<Work>;
  readonly onError: (error: unknown, request: Request) => void;
}

/** One request from its beginning to the end of its answer, which a stream may put long after the response. */
export interface Work {
  readonly limits: Required<Limits>;
  /** Fires when the client has gone, the time is up or the server ends. */
  readonly signal: AbortSignal;
  cancel(reason: ApiError): void;
  /** Waits for a slot, which `end` gives back. */
  start(): Promise<void>;
  /** The events of a generation, counted. Resolves with its first event computed, so that what is wrong with a request is found before an answer begins. */
  generate(
    model: Model,
    request: Omit<GenerateRequest, "signal">,
  ): Promise<AsyncGenerator<GenerateEvent, void, void>>;
  /** An answer of server-sent events; an error on the way becomes the last of them. */
  stream(lines: AsyncGenerator<string, void, void>): Response;
}

/** Runs a request. Throws ApiError. */
export async function withWork(
  shared: Shared,
  request: Request,
  route: string,
  context: unknown,
  body: (work: Work) => Promise<Response>,
): Promise<Response> {
  const { slots, metrics, limits, live, onError } = shared;
  const started = performance.now();
  const seconds = (): number => (performance.now() - started) / 1000;
  const controller = new AbortController();
  const { signal } = controller;
  const cancel = (reason: ApiError): void => controller.abort(reason);
  const gone = (): void => cancel(new ApiError(499, "The client closed the request.", { code: "aborted" }));
  const timer = setTimeout(
    () =>
      cancel(
        new ApiError(504, `The answer took more than ${limits.timeoutMs / 1000} s.`, { code: "timeout" }),
      ),
    limits.timeoutMs,
  );
  request.signal.addEventListener("abort", gone);
  if (request.signal.aborted) gone();
  let over = (): void => {};
  if (canWait(context)) {
    context.waitUntil(
      new Promise<void>((done) => {
        over = done;
      }),
    );
  }
  let release: (() => void) | undefined;
  let held: AsyncGenerator<GenerateEvent, void, void> | undefined;
  let streaming = false;
  let ended = false;

  const end = (status: number): void => {
    if (ended) return;
    ended = true;
    clearTimeout(timer);
    request.signal.removeEventListener("abort", gone);
    live.delete(work);
    // However it ended, the text's pages of the cache are given back.
    void Promise.resolve(held?.return())
      .catch(() => undefined)
      .finally(over);
    release?.();
    metrics.request(route, status, seconds());
  };

  const failed = (error: unknown): ApiError => {
    const failure = signal.aborted ? apiError(signal.reason) : apiError(error);
    if (failure.status === 500) onError(failure.cause ?? failure, request);
    return failure;
  };

  async function* counted(
    events: AsyncGenerator<GenerateEvent, void, void>,
  ): AsyncGenerator<GenerateEvent, void, void> {
    let first = true;
    for await (const event of events) {
      if (event.type === "prompt" && event.total > limits.promptTokens) {
        throw new ApiError(
          400,
          `The prompt has ${event.total} tokens; this server takes ${limits.promptTokens}.`,
          {
            code: "context_length_exceeded",
          },
        );
      }
      if (event.type === "token") {
        metrics.token();
        if (first) metrics.firstToken(seconds());
        first = false;
      }
      if (event.type === "finish") metrics.prompt(event.usage.promptTokens, event.usage.cachedTokens);
      yield event;
    }
  }

  async function* guarded(lines: AsyncGenerator<string, void, void>): AsyncGenerator<string, void, void> {
    let status = 499;
    try {
      yield* lines;
      status = 200;
    } catch (error) {
      const failure = failed(error);
      status = failure.status;
      yield sseLine(errorBody(failure));
    } finally {
      end(status);
    }
  }

  const work: Work = {
    limits,
    signal,
    cancel,
    async start() {
      release = await slots.acquire(signal);
    },
    async generate(model, options) {
      const events = counted(model.generate({ ...options, signal }));
      held = events;
      const first = await events.next();
      return replayed(first, events);
    },
    stream(lines) {
      streaming = true;
      const safe = guarded(lines);
      // A client that stopped reading leaves the generator where it is: it has to be told.
      const leave = (): void => {
        void safe.return().finally(() => end(apiError(signal.reason).status));
      };
      signal.addEventListener("abort", leave);
      const stream = byteStream(safe, () => gatherMs(slots.running), gone);
      return new Response(stream, {
        headers: {
          "content-type": "text/event-stream",
          "cache-control": "no-cache",
          "x-accel-buffering": "no",
        },
      });
    },
  };
  live.add(work);
  try {
    const response = await body(work);
    if (!streaming) end(response.status);
    return response;
  } catch (error) {
    const failure = failed(error);
    end(failure.status);
    throw failure;
  }
}

/** A Worker's context. */
function canWait(context: unknown): context is { waitUntil(promise: Promise<unknown>): void } {
  return typeof (context as { waitUntil?: unknown } | undefined)?.waitUntil === "function";
}

async function* replayed<T>(
  first: IteratorResult<T, void>,
  rest: AsyncGenerator<T, void, void>,
): AsyncGenerator<T, void, void> {
  try {
    if (first.done) return;
    yield first.value;
    yield* rest;
  } finally {
    await rest.return();
  }
}

/**
 * While several answers are being written, the events of one go out together, at most so late: each write costs as much as a token of pico. The
 * more answers there are, the slower each grows.
 */
function gatherMs(running: number): number {
  return running > 1 ? Math.min(50, 10 + running) : 0;
}

/** Lines as bytes, as they come or, where `gather` says so, those of some milliseconds at once. */
function byteStream(
  lines: AsyncGenerator<string, void, void>,
  gather: () => number,
  cancel: () => void,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let pending: Promise<IteratorResult<string, void>> | undefined;
  let written = Number.NEGATIVE_INFINITY;
  return new ReadableStream<Uint8Array>({
    async pull(target) {
      let text = "";
      let timer: ReturnType<typeof setTimeout> | undefined;
      let late: Promise<undefined> | undefined;
      let done = false;
      while (!done) {
        pending ??= lines.next();
        const result = await (late ? Promise.race([pending, late]) : pending);
        if (result === undefined) break;
        pending = undefined;
        if (result.done) done = true;
        else text += result.value;
        const wait = written + gather() - performance.now();
        if (wait <= 0) break;
        late ??= new Promise((now) => {
          timer = setTimeout(now, wait, undefined);
        });
      }
      clearTimeout(timer);
      written = performance.now();
      if (text !== "") target.enqueue(encoder.encode(text));
      if (done) target.close();
    },
    cancel,
  });
}

/** One server-sent event. */
export function sseLine(data: unknown, event?: string): string {
  const text = typeof data === "string" ? data : JSON.stringify(data);
  return `${event === undefined ? "" : `event: ${event}\n`}data: ${text}\n\n`;
}

/** "chatcmpl-" and 24 letters and digits. */
export function newId(prefix: string): string {
  const bytes = crypto.getRandomValues(new Uint8Array(24));
  return prefix + Array.from(bytes, (byte) => "0123456789abcdefghijklmnopqrstuv"[byte & 31]).join("");
}
