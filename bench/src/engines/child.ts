/** Runs one engine beside this process's parent, which sends requests one after the other. */
import type { Engine, PassRequest, Started, StartOptions } from "../contestant.ts";

export type ChildRequest =
  | { readonly call: "start"; readonly engine: ChildEngine; readonly options: StartOptions }
  | { readonly call: "pass"; readonly request: PassRequest }
  | { readonly call: "close" };
export type ChildReply = { readonly value: unknown } | { readonly error: string };
export type ChildEngine = "lowbit" | "node-llama-cpp";

let running: Engine | undefined;

async function answer(request: ChildRequest): Promise<unknown> {
  if (request.call === "start") {
    const { engine, ...started } = await start(request.engine, request.options);
    running = engine;
    return started satisfies Started;
  }
  if (running === undefined) throw new Error("No engine has been started.");
  return request.call === "pass" ? running.pass(request.request) : running.close();
}

async function start(name: ChildEngine, options: StartOptions): Promise<Started & { engine: Engine }> {
  // Each by itself: the code of one is no part of the other's memory.
  if (name === "lowbit") {
    const { startLowbit } = await import("./lowbit-engine.ts");
    const { load } = await import("lowbit");
    return startLowbit((loadOptions) => load(options.modelPath, loadOptions), options);
  }
  const { startNodeLlamaCpp } = await import("./node-llama-cpp-engine.ts");
  return startNodeLlamaCpp(options);
}

process.on("message", async (request: ChildRequest) => {
  let reply: ChildReply;
  try {
    reply = { value: (await answer(request)) ?? null };
  } catch (error) {
    reply = { error: error instanceof Error ? error.message : String(error) };
  }
  process.send?.(reply);
});
