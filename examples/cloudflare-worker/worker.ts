// A language model in a Cloudflare Worker, behind OpenAI's HTTP interface. Its weights stream from R2 by range reads.
import { createServer, type Server } from "@lowbit/server";
import {
  architectures,
  createEngine,
  createGrammar,
  createTokenizer,
  gguf,
  platform,
  r2Files,
  wasm,
} from "lowbit";

interface Env {
  MODELS: Parameters<typeof r2Files>[0];
  /** The object in the bucket, and what requests call it. */
  MODEL: string;
  /** A secret: bearer tokens that are let in, separated by spaces. */
  API_KEYS?: string;
}

// One format and one backend keep the bundle under a mebibyte.
const engine = createEngine({
  platform: platform(),
  backends: [wasm()],
  plugins: [gguf()],
  architectures,
  createTokenizer,
  createGrammar,
});

async function start({ MODELS, MODEL, API_KEYS }: Env): Promise<Server> {
  const model = await engine.load(r2Files(MODELS, MODEL));
  return createServer({
    model,
    name: MODEL.replace(/\.gguf$/, ""),
    ...(API_KEYS && { apiKeys: API_KEYS.split(/\s+/) }),
    limits: { parallel: 4, queue: 16, timeoutMs: 120_000 },
  });
}

/** Of this isolate: requests share it for as long as Cloudflare keeps the isolate. */
let server: Promise<Server> | undefined;

export default {
  async fetch(
    request: Request,
    env: Env,
    context: { waitUntil(promise: Promise<unknown>): void },
  ): Promise<Response> {
    server ??= start(env);
    const ready = server;
    // Other requests wait for the model too: it must go on loading when the first client leaves.
    context.waitUntil(ready.catch(() => undefined));
    try {
      return await (await ready).fetch(request, context);
    } catch (error) {
      if (server === ready) server = undefined;
      const message = error instanceof Error ? error.message : String(error);
      return Response.json({ error: { message, type: "server_error" } }, { status: 500 });
    }
  },
};
