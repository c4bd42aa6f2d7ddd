/** The part of both workers that a page starts: they differ in what they bring along. */
import { blobSource, type FileSet, LowbitError } from "@lowbit/core";
import type { LoadOptions, Model, ModelLocation } from "@lowbit/engine";
import type { Engine, PassRequest, StartOptions } from "../contestant.ts";
import { startLowbit } from "./lowbit-engine.ts";

export type WorkerRequest =
  | { readonly call: "start"; readonly options: StartOptions }
  | { readonly call: "pass"; readonly request: PassRequest };

/** Answers the page's requests, one after the other. Files are Blobs before the clock runs. */
export function serveWorker(load: (location: ModelLocation, options: LoadOptions) => Promise<Model>): void {
  let running: Engine | undefined;
  const answer = async (request: WorkerRequest): Promise<unknown> => {
    if (request.call === "pass") {
      if (running === undefined) throw new Error("No engine has been started.");
      return running.pass(request.request);
    }
    const { modelPath: address } = request.options;
    const location = address.endsWith("/") ? await folderAt(address) : await blobAt(address);
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

async function blobAt(address: string): Promise<Blob> {
  return (await fetch(address)).blob();
}

/** The server answers a folder's address with the names of its files. */
async function folderAt(address: string): Promise<FileSet> {
  const names = (await (await fetch(address)).json()) as readonly string[];
  const blobs = new Map<string, Blob>();
  for (const name of names) blobs.set(name, await blobAt(address + name));
  return {
    name: address,
    entry: undefined,
    list: async () => names,
    async open(name) {
      const blob = blobs.get(name);
      if (blob === undefined) throw new LowbitError("not-found", `${address} has no file ${name}.`);
      return blobSource(blob, name);
    },
  };
}
