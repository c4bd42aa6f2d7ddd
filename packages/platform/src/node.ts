import { readFile } from "node:fs/promises";
import { totalmem } from "node:os";
import { constrainedMemory } from "node:process";
import { fileURLToPath } from "node:url";
import { LowbitError, type Platform, throwIfAborted } from "@lowbit/core";
import { schemeOf, unknownScheme } from "./names.ts";
import { localFiles } from "./node-files.ts";
import { type RemoteOptions, remoteFiles } from "./remote.ts";

export { fileSource } from "./node-files.ts";
export { writableFolder } from "./node-folder.ts";
export { type OutputOptions, outputPlace } from "./node-output.ts";
export type { RemoteOptions } from "./remote.ts";

export interface PlatformOptions extends RemoteOptions {
  /** Memory that a model may take. @default 80 % of the machine's memory, or of the container's limit */
  memoryLimitBytes?: number;
}

/** Node.js, and runtimes that offer its modules. */
export function platform(options: PlatformOptions = {}): Platform {
  return {
    name: process.versions.bun ? "bun" : process.versions.deno ? "deno" : "node",
    async files(location, signal) {
      throwIfAborted(signal);
      const place = locate(location);
      return typeof place === "string" ? localFiles(place) : remoteFiles(place, options);
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
    now: () => performance.now(),
    yield: () => new Promise((done) => setImmediate(done)),
    memoryLimitBytes: options.memoryLimitBytes ?? Math.floor(machineMemory() * 0.8),
  };
}

/** A local path, or the URL to fetch. */
function locate(location: string | URL): string | URL {
  const text = String(location);
  const scheme = schemeOf(text);
  if (scheme === undefined) return text;
  if (["file", "http", "https", "data"].includes(scheme)) {
    try {
      return scheme === "file" ? fileURLToPath(text) : new URL(text);
    } catch (error) {
      throw new LowbitError("bad-argument", `${JSON.stringify(text.slice(0, 200))} is not a valid URL.`, {
        reason: "url",
        cause: error,
      });
    }
  }
  throw unknownScheme(text, ["a path", "a file: URL", "an http(s): URL", "a Blob", "a Uint8Array"]);
}

/** The container's limit where there is one (0 or absurdly large otherwise). */
function machineMemory(): number {
  const total = totalmem();
  const limit = constrainedMemory();
  return limit > 0 && limit < total ? limit : total;
}
