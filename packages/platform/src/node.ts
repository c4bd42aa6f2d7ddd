import { readFile } from "node:fs/promises";
import { totalmem } from "node:os";
import { constrainedMemory } from "node:process";
import { fileURLToPath } from "node:url";
import { LowbitError, type Platform, throwIfAborted } from "@lowbit/core";
import type { CacheStore } from "./cache-store.ts";
import { type NetworkOptions, networkFiles, storeOf } from "./locations.ts";
import { schemeOf, unknownScheme } from "./names.ts";
import { folderCache } from "./node-cache.ts";
import { localFiles } from "./node-files.ts";
import { nodeThreads } from "./node-threads.ts";

export { cacheFolder, folderCache } from "./node-cache.ts";
export { fileSource } from "./node-files.ts";
export { writableFolder } from "./node-folder.ts";
export { type OutputOptions, outputPlace } from "./node-output.ts";
export * from "./sources.ts";
export type { NetworkOptions };

export interface PlatformOptions extends Omit<NetworkOptions, "cache"> {
  /** Keeps what `hf:` and `http(s):` locations hold; true is `defaultCache()`. @default false */
  cache?: boolean | CacheStore;
  /** Memory that a model may take. @default 80 % of the machine's memory, or of the container's limit */
  memoryLimitBytes?: number;
}

/** Node.js, and runtimes that offer its modules. */
export function platform(options: PlatformOptions = {}): Platform {
  return nodePlatform(process.versions.bun ? "bun" : process.versions.deno ? "deno" : "node", options);
}

export function nodePlatform(name: string, options: PlatformOptions): Platform {
  const { cache: wanted, memoryLimitBytes, hub, ...rest } = options;
  const cache = storeOf(wanted, defaultCache);
  const { HF_ENDPOINT, HF_TOKEN } = process.env;
  const network: NetworkOptions = {
    ...rest,
    ...(cache && { cache }),
    hub: { ...(HF_ENDPOINT && { endpoint: HF_ENDPOINT }), ...(HF_TOKEN && { token: HF_TOKEN }), ...hub },
  };
  return {
    name,
    async files(location, signal) {
      throwIfAborted(signal);
      const place = locate(location);
      return typeof place === "string" ? localFiles(place) : networkFiles(place.location, network);
    },
    async wasm(url, signal) {
      if (url.protocol === "file:") return WebAssembly.compile(await readFile(url, { signal }));
      const response = await (options.fetch ?? globalThis.fetch)(url, { signal: signal ?? null });
      if (!response.ok) {
        throw new LowbitError("not-found", `${url.href}: the server answered ${response.status}.`, {
          reason: `http-${response.status}`,
        });
      }
      return WebAssembly.compile(await response.arrayBuffer());
    },
    threads: nodeThreads(),
    now: () => performance.now(),
    yield: () => new Promise((done) => setImmediate(done)),
    memoryLimitBytes: memoryLimitBytes ?? Math.floor(machineMemory() * 0.8),
  };
}

/** This user's folder for downloads. */
export function defaultCache(): CacheStore {
  return folderCache();
}

/** A local path, or what is to be fetched. */
function locate(location: string | URL): string | { location: URL | string } {
  const text = String(location);
  const scheme = schemeOf(text);
  if (scheme === undefined) return text;
  if (scheme === "hf") return { location: text };
  if (["file", "http", "https", "data", "blob"].includes(scheme)) {
    try {
      return scheme === "file" ? fileURLToPath(text) : { location: new URL(text) };
    } catch (error) {
      throw new LowbitError("bad-argument", `${JSON.stringify(text.slice(0, 200))} is not a valid URL.`, {
        reason: "url",
        cause: error,
      });
    }
  }
  throw unknownScheme(text, [
    "a path",
    "a file: URL",
    "an http(s): URL",
    "hf:org/repository",
    "a Blob",
    "a Uint8Array",
  ]);
}

/** The container's limit where there is one (0 or absurdly large otherwise). */
function machineMemory(): number {
  const total = totalmem();
  const limit = constrainedMemory();
  return limit > 0 && limit < total ? limit : total;
}
