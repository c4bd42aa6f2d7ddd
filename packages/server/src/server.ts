import { LowbitError } from "@lowbit/core";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { cors } from "hono/cors";
import { createAuthorizer } from "./auth.ts";
import { chatCompletions } from "./chat.ts";
import { completions } from "./completions.ts";
import { embeddings } from "./embeddings.ts";
import { ApiError, apiError, errorResponse } from "./errors.ts";
import { createMetrics, type Gauge } from "./metrics.ts";
import { createModels, type ModelSource, type Models, type NamedModel } from "./models.ts";
import { responses } from "./responses.ts";
import { createSlots, shuttingDown } from "./slots.ts";
import { type Limits, type Shared, type Work, withWork } from "./work.ts";

export interface ServerOptions {
  /** The one model, under its own name or `name`. Either this or `models`. */
  model?: ModelSource;
  /** What requests call it. @default "default" */
  name?: string;
  /** Models by the names that requests use. While one is being loaded it is answered for with 503. */
  models?: Readonly<Record<string, ModelSource>>;
  /** Bearer tokens that are let in. @default everybody is */
  apiKeys?: readonly string[];
  /** Origins of pages that may call the server; "*" for all. @default none */
  cors?: string | readonly string[];
  limits?: Limits;
  /** Told of failures that are not the client's. @default console.error */
  onError?: (error: unknown, request: Request) => void;
}

/** An OpenAI-compatible server as one function, for `Deno.serve`, `Bun.serve`, Workers or any bridge to HTTP. */
export interface Server {
  /**
   * A Worker's context, with `waitUntil`, tells the runtime that an answer is still being written, or tidied away after its client has gone.
   * What other runtimes give along with a request is ignored.
   */
  fetch(request: Request, context?: unknown): Promise<Response>;
  /**
   * Turns new requests away and waits for those in work, at most `graceMs`; then they are ended. The models stay the caller's.
   * @default graceMs: 10,000
   */
  close(options?: { graceMs?: number }): Promise<void>;
}

type Route = (models: Models, request: Request, work: Work) => Promise<Response>;

const routes: Readonly<Record<string, Route>> = {
  "/v1/chat/completions": chatCompletions,
  "/v1/completions": completions,
  "/v1/embeddings": embeddings,
  "/v1/responses": responses,
};

const defaults: Required<Limits> = {
  parallel: 8,
  queue: 128,
  bodyBytes: 4 * 2 ** 20,
  promptTokens: Number.POSITIVE_INFINITY,
  completionTokens: Number.POSITIVE_INFINITY,
  inputs: 256,
  timeoutMs: 600_000,
};

/** Throws `bad-argument` for options that contradict each other. */
export function createServer(options: ServerOptions): Server {
  const models = createModels(sourcesOf(options));
  const limits = limitsOf(options.limits);
  const authorize = options.apiKeys && createAuthorizer(checkedKeys(options.apiKeys));
  const metrics = createMetrics();
  const slots = createSlots(limits.parallel, limits.queue);
  const onError = options.onError ?? ((error: unknown) => console.error(error));
  const shared: Shared = { slots, metrics, limits, live: new Set(), onError };
  let closing: Promise<void> | undefined;

  const app = new Hono<{ Bindings: { context: unknown } }>();
  app.onError((error, c) => {
    if (!(error instanceof ApiError)) onError(error, c.req.raw);
    return errorResponse(apiError(error));
  });
  app.notFound((c) =>
    errorResponse(
      new ApiError(404, `There is no ${c.req.method} ${c.req.path.slice(0, 200)} here.`, {
        code: "unknown_url",
      }),
    ),
  );
  if (options.cors !== undefined) {
    app.use(cors({ origin: typeof options.cors === "string" ? options.cors : [...options.cors] }));
  }
  app.get("/health", () => {
    const status = closing ? "shutting down" : healthOf(models.all);
    return Response.json({ status }, { status: status === "ok" ? 200 : 503 });
  });
  if (authorize) {
    app.use(async (c, next) => {
      await authorize(c.req.raw);
      await next();
    });
  }
  app.get("/metrics", () => {
    const headers = { "content-type": "text/plain; version=0.0.4; charset=utf-8" };
    return new Response(metrics.text(gauges(models.all, shared)), { headers });
  });
  app.get("/v1/models", () => Response.json({ object: "list", data: models.all.map(listed) }));
  app.get("/v1/models/:id{.+}", (c) => {
    const id = c.req.param("id");
    const entry = models.all.find((each) => each.id === id);
    if (entry === undefined) models.find(id);
    return Response.json(listed(entry as NamedModel));
  });
  const limited = bodyLimit({
    maxSize: limits.bodyBytes,
    onError: () => {
      throw new ApiError(413, `The body is larger than ${limits.bodyBytes} bytes.`, {
        code: "body_too_large",
      });
    },
  });
  for (const [path, route] of Object.entries(routes)) {
    app.post(path, limited, (c) => {
      if (closing) throw shuttingDown();
      const { raw } = c.req;
      return withWork(shared, raw, path, c.env.context, (work) => route(models, raw, work));
    });
  }

  const close = async (graceMs: number): Promise<void> => {
    slots.close();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((done) => {
      timer = setTimeout(done, graceMs);
    });
    await Promise.race([slots.idle(), late]);
    clearTimeout(timer);
    for (const work of shared.live) work.cancel(shuttingDown());
    await slots.idle();
  };

  return {
    fetch: async (request, context) => app.fetch(request, { context }),
    close({ graceMs = 10_000 } = {}) {
      closing ??= close(graceMs);
      return closing;
    },
  };
}

function sourcesOf({
  model,
  name = "default",
  models,
}: ServerOptions): Readonly<Record<string, ModelSource>> {
  if ((model === undefined) === (models === undefined)) {
    throw new LowbitError("bad-argument", "createServer takes either model or models.", { reason: "models" });
  }
  const sources = models ?? { [name]: model as ModelSource };
  if (Object.keys(sources).length === 0) {
    throw new LowbitError("bad-argument", "createServer: models is empty; a server has at least one.", {
      reason: "models",
    });
  }
  return sources;
}

function checkedKeys(keys: readonly string[]): readonly string[] {
  if (keys.length > 0 && keys.every((key) => /^\S+$/.test(key))) return keys;
  throw new LowbitError("bad-argument", "createServer: apiKeys must be at least one text without spaces.", {
    reason: "apiKeys",
    hint: "Leave it out to let everybody in.",
  });
}

function limitsOf(given: Limits = {}): Required<Limits> {
  const limits: Record<string, number> = { ...defaults };
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue;
    const low = name === "queue" ? 0 : 1;
    if (!Object.hasOwn(defaults, name) || typeof value !== "number" || !(value >= low)) {
      throw new LowbitError(
        "bad-argument",
        `createServer: limits.${name} is ${String(value)}; it must be a number from ${low}.`,
        {
          reason: name,
          hint: `Limits are ${Object.keys(defaults).join(", ")}.`,
        },
      );
    }
    limits[name] = value;
  }
  return limits as unknown as Required<Limits>;
}

function healthOf(all: readonly NamedModel[]): string {
  if (all.some(({ state }) => state === "failed")) return "failed";
  return all.every(({ state }) => state === "ready") ? "ok" : "loading";
}

function listed({ id, created, state, model }: NamedModel): object {
  const about = model && {
    context_length: model.info.contextLength,
    architecture: model.info.architecture,
    parameters: model.info.parameters,
    bits_per_weight: model.info.bitsPerWeight,
  };
  return { id, object: "model", created, owned_by: "lowbit", state, ...about };
}

function gauges(all: readonly NamedModel[], { slots }: Shared): Gauge[] {
  const ready = all.flatMap(({ id, model }) =>
    model ? [{ labels: { model: id }, status: statusOf(model) }] : [],
  );
  const each = (
    name: string,
    help: string,
    value: (status: NonNullable<ReturnType<typeof statusOf>>) => number,
  ): Gauge => ({
    name,
    help,
    values: ready.flatMap(({ labels, status }) => (status ? [{ labels, value: value(status) }] : [])),
  });
  return [
    { name: "requests_running", help: "Requests in work.", values: [{ value: slots.running }] },
    { name: "requests_waiting", help: "Requests that wait for a slot.", values: [{ value: slots.waiting }] },
    each("sequences_running", "Texts in work.", ({ running }) => running),
    each("passes", "Forward passes since loading.", ({ passes }) => passes),
    each("cache_pages", "Pages of the key/value cache.", ({ pages }) => pages),
    each("cache_free_pages", "Pages that hold nothing.", ({ freePages }) => freePages),
    each("memory_used_bytes", "Weights, cache and activations.", ({ usedBytes }) => usedBytes),
    each("memory_held_bytes", "What was taken from the system.", ({ heldBytes }) => heldBytes),
  ];
}

/** Undefined for a model that its owner has disposed. */
function statusOf(model: NonNullable<NamedModel["model"]>): ReturnType<typeof model.status> | undefined {
  try {
    return model.status();
  } catch {
    return undefined;
  }
}
