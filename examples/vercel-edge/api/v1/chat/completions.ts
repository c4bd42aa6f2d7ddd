// A language model in Vercel's edge runtime, behind OpenAI's HTTP interface. Its weights stream from MODEL_URL by range reads.
import { createServer, type Server } from "@lowbit/server";
import { architectures, createEngine, createGrammar, createTokenizer, gguf, platform, wasm } from "lowbit";

export const config = { runtime: "edge" };

// One format and one backend keep the function under a mebibyte.
const engine = createEngine({
  platform: platform(),
  backends: [wasm()],
  plugins: [gguf()],
  architectures,
  createTokenizer,
  createGrammar,
});

async function start(): Promise<Server> {
  const { MODEL_URL, API_KEYS } = process.env;
  if (!MODEL_URL)
    throw new Error("The environment variable MODEL_URL is missing: where the model's file is.");
  const model = await engine.load(new URL(MODEL_URL));
  return createServer({
    model,
    name: "model",
    ...(API_KEYS && { apiKeys: API_KEYS.split(/\s+/) }),
    // Vercel may not tell of clients that have left: what nobody reads ends here at the latest.
    limits: { parallel: 4, queue: 16, completionTokens: 500, timeoutMs: 120_000 },
  });
}

/** Of this isolate: requests share it for as long as Vercel keeps the isolate. */
let server: Promise<Server> | undefined;

export default async function handler(
  request: Request,
  context: { waitUntil(promise: Promise<unknown>): void },
): Promise<Response> {
  server ??= start();
  const ready = server;
  // Other requests wait for the model too: it must go on loading when the first client leaves.
  context.waitUntil(ready.catch(() => undefined));
  try {
    // Vercel's functions lie under /api, OpenAI's paths begin with /v1.
    const url = new URL(request.url);
    url.pathname = url.pathname.replace(/^\/api(?=\/)/, "");
    return await (await ready).fetch(new Request(url, request), context);
  } catch (error) {
    if (server === ready) server = undefined;
    const message = error instanceof Error ? error.message : String(error);
    return Response.json({ error: { message, type: "server_error" } }, { status: 500 });
  }
}
