/** The part of both workers that a page starts: they differ in what they bring along. */
import type { LoadOptions, Model, ModelLocation } from "@lowbit/engine";
import type { Engine, PassRequest, StartOptions } from "../contestant.ts";
import { startLowbit } from "./lowbit-engine.ts";

export type WorkerRequest =
  | { readonly call: "start"; readonly options: StartOptions }
  | { readonly call: "pass"; readonly request: PassRequest };

/** Answers the page's requests, one after the other. A file is a Blob before the clock runs; a folder is read from its address. */
export function serveWorker(load: (location: ModelLocation, options: LoadOptions) => Promise<Model>): void {
  let running: Engine | undefined;
  const answer = async (request: WorkerRequest): Promise<unknown> => {
    if (request.call === "pass") {
      if (running === undefined) throw new Error("No engine has been started.");
      return running.pass(request.request);
    }
    const { modelPath: address } = request.options;
    const location = address.endsWith(".gguf") ? await (await fetch(address)).blob() : address;
    const { engine, ...started } = await startLowbit((options) => load(location, options), request.options);
    running = engine;
    return started;
  };
  addEventListener("message", async ({ data }: MessageEvent<WorkerRequest>) => {
    try {
      postMessage({ value: await answer(data) });
    } catch (error) {
      postMessage({ error: error instanceof Error ? error.message : String(error) });
    }
  });
}
