// A language model behind OpenAI's HTTP interface, in Bun. MODEL is a path, a URL or hf:org/repository.
import { picoGguf } from "@lowbit/pico";
import { createServer } from "@lowbit/server";
import { LowbitError, load } from "lowbit";

const { MODEL: location = picoGguf, API_KEYS, HOST = "127.0.0.1", PORT = "8000" } = Bun.env;
const name =
  String(location)
    .split("/")
    .at(-1)
    ?.replace(/\.gguf$/, "") ?? "";
const parallel = 4;

const loading = new AbortController();
const model = load(location, {
  backend: "wasm", // rather fail than compute slowly
  cache: true, // what was downloaded is there at the next start
  sequences: parallel,
  signal: loading.signal,
});

// Listens at once; until the model is there, requests are answered 503 with Retry-After.
const server = createServer({
  models: { [name]: model },
  limits: { parallel },
  ...(API_KEYS && { apiKeys: API_KEYS.split(/\s+/) }),
});
const http = Bun.serve({
  hostname: HOST,
  port: Number(PORT),
  idleTimeout: 0, // else Bun cuts whoever waits 10 s for an answer that is not streamed
  fetch: (request) => server.fetch(request),
});
console.error(`${name} at http://${http.hostname}:${http.port}/v1`);

/** Lets answers in work be finished; a second signal ends the process at once. */
async function stop(): Promise<void> {
  for (const signal of signals) process.off(signal, stop);
  loading.abort();
  await server.close();
  await http.stop();
  await (await model.catch(() => undefined))?.dispose();
}
const signals = ["SIGINT", "SIGTERM"] as const;
for (const signal of signals) process.on(signal, stop);

try {
  const { info } = await model;
  console.error(`ready, on ${info.backendDescription}`);
} catch (error) {
  if (!loading.signal.aborted) {
    console.error(LowbitError.is(error) ? error.message : error);
    process.exit(1);
  }
}
