// A language model behind OpenAI's HTTP interface, in Deno. MODEL is a path, a URL or hf:org/repository.
import { picoGguf } from "@lowbit/pico";
import { createServer } from "@lowbit/server";
import { LowbitError, load, memoryPresets } from "lowbit";

const location = Deno.env.get("MODEL") ?? picoGguf;
const name =
  String(location)
    .split("/")
    .at(-1)
    ?.replace(/\.gguf$/, "") ?? "";
const keys = Deno.env.get("API_KEYS");
const deployed = Deno.env.has("DENO_DEPLOY");
const parallel = 4;

const loading = new AbortController();
const model = load(location, {
  backend: "wasm", // rather fail than compute slowly
  cache: !deployed, // what was downloaded is there at the next start; an instance of Deno Deploy keeps nothing
  sequences: parallel,
  signal: loading.signal,
  // The machine's memory, which Deno tells of, is not what Deno Deploy gives.
  ...(deployed && { memoryLimitBytes: memoryPresets["deno-deploy"].limitBytes }),
});

// Listens at once; until the model is there, requests are answered 503 with Retry-After.
const server = createServer({
  models: { [name]: model },
  limits: { parallel },
  ...(keys && { apiKeys: keys.split(/\s+/) }),
});
const http = Deno.serve(
  {
    hostname: Deno.env.get("HOST") ?? "127.0.0.1",
    port: Number(Deno.env.get("PORT") ?? 8000),
    onListen: ({ hostname, port }) => console.error(`${name} at http://${hostname}:${port}/v1`),
  },
  server.fetch,
);

/** Lets answers in work be finished; a second signal ends the process at once. */
async function stop(): Promise<void> {
  for (const signal of signals) Deno.removeSignalListener(signal, stop);
  loading.abort();
  const closed = http.shutdown();
  await server.close({ graceMs: deployed ? 4000 : 10_000 }); // Deno Deploy kills 5 s after SIGINT
  await closed;
  await (await model.catch(() => undefined))?.dispose();
}
const signals = ["SIGINT", "SIGTERM"] as const;
for (const signal of signals) Deno.addSignalListener(signal, stop);

try {
  const { info } = await model;
  console.error(`ready, on ${info.backendDescription}`);
} catch (error) {
  if (!loading.signal.aborted) {
    console.error(LowbitError.is(error) ? error.message : error);
    Deno.exit(1);
  }
}
