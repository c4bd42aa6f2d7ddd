import { type FileSet, LowbitError, type OutputPlace, type Platform } from "@lowbit/core";
import type { CacheStore } from "./cache-store.ts";
import { displayUrl } from "./http.ts";
import { type NetworkOptions, networkFiles, storeOf } from "./locations.ts";
import { memoryPresets } from "./memory.ts";
import { schemeOf, unknownScheme } from "./names.ts";
import { opfsCache } from "./opfs-cache.ts";
import { webCache } from "./web-cache.ts";
import { webThreads } from "./web-threads.ts";

export * from "./sources.ts";
export type { NetworkOptions };

export interface PlatformOptions extends Omit<NetworkOptions, "cache"> {
  /** Keeps what `hf:` and `http(s):` locations hold; true is `defaultCache()`. @default false */
  cache?: boolean | CacheStore;
  /**
   * Memory that a model may take.
   * @default half of what `navigator.deviceMemory` tells, else 2 GiB; in Workers and on iOS, that of `memoryPresets`
   */
  memoryLimitBytes?: number;
}

/** How one of the runtimes with web APIs only differs from the others. */
interface Traits {
  readonly name: string;
  readonly memoryLimitBytes: number;
  /** A module from bytes; else the build must have it as a module. */
  readonly canCompile: boolean;
}

const mebibyte = 2 ** 20;

/** Browsers (windows and workers) and other runtimes with web APIs only. */
export function platform(options: PlatformOptions = {}): Platform {
  const name = runtimeName();
  if (name === "workerd") return webPlatform(isolate(name), options);
  return webPlatform({ name, memoryLimitBytes: deviceMemory(), canCompile: true }, options);
}

/** Isolates of 128 MiB, in which nothing is compiled. */
export function isolate(name: string): Traits {
  return { name, memoryLimitBytes: memoryPresets.workers.limitBytes, canCompile: false };
}

export function webPlatform(traits: Traits, options: PlatformOptions): Platform {
  const { cache: wanted, memoryLimitBytes = traits.memoryLimitBytes, ...rest } = options;
  const cache = storeOf(wanted, defaultCache);
  const network = { ...rest, ...(cache && { cache }) };
  const threads = traits.canCompile ? webThreads() : undefined;
  return {
    name: traits.name,
    files(location, signal): Promise<FileSet> {
      return attempt(() => {
        if (signal?.aborted) throw new LowbitError("aborted", "Loading was aborted.", { reason: "aborted" });
        return networkFiles(toLocation(location), network);
      });
    },
    wasm(url, signal) {
      if (!traits.canCompile) return Promise.reject(cannotCompile(traits.name));
      return compile(url, options.fetch ?? globalThis.fetch.bind(globalThis), signal);
    },
    ...(threads && { threads }),
    now: () => performance.now(),
    yield: turn,
    memoryLimitBytes,
  };
}

/** The origin private file system where there is one, else the Cache API. */
export function defaultCache(): CacheStore {
  const { navigator } = globalThis as { navigator?: { storage?: { getDirectory?: unknown } } };
  return navigator?.storage?.getDirectory === undefined ? webCache() : opfsCache();
}

export interface OutputOptions {
  overwrite?: boolean;
  source?: string | URL;
}

/** Throws `bad-argument`: these runtimes have no paths to write to. */
export function outputPlace(path: string | URL, _options?: OutputOptions): Promise<OutputPlace> {
  return Promise.reject(
    new LowbitError("bad-argument", `Nothing can be written to ${JSON.stringify(String(path))} here.`, {
      reason: "no-file-system",
      hint: "Give an OutputPlace of your own, or memoryOutput().",
    }),
  );
}

function attempt<T>(body: () => T): Promise<T> {
  return new Promise((resolve) => resolve(body()));
}

function toLocation(location: string | URL): URL | string {
  if (schemeOf(String(location)) === "hf") return String(location);
  const known = ["hf:org/repository", "an http(s): or blob: URL", "a path relative to the page", "a Blob"];
  known.push("a Uint8Array", "r2Files()", "kvFiles()", "assetFiles()");
  const base = (globalThis as { location?: { href?: string } }).location?.href;
  let url: URL;
  try {
    url = new URL(location, base);
  } catch {
    throw unknownScheme(String(location), known);
  }
  if (!["http:", "https:", "blob:", "data:"].includes(url.protocol)) {
    throw unknownScheme(schemeOf(String(location)) === undefined ? url.href : String(location), known);
  }
  return url;
}

function cannotCompile(name: string): LowbitError {
  return new LowbitError("backend-unavailable", `${name} compiles no WebAssembly at run time.`, {
    reason: "no-compile",
    hint: `Bundle with the condition "${name}", under which kernels import their modules, or hand them over: wasm({ modules }).`,
  });
}

/** Compiles while the bytes arrive; where the server sends another MIME type, from the whole file. */
async function compile(url: URL, get: typeof fetch, signal?: AbortSignal): Promise<WebAssembly.Module> {
  const response = await get(url, { signal: signal ?? null });
  if (!response.ok) {
    await response.body?.cancel();
    throw new LowbitError("not-found", `${displayUrl(url)}: the server answered ${response.status}.`, {
      reason: `http-${response.status}`,
      hint: "The kernels' .wasm file must be served beside the code, or handed over as a WebAssembly.Module.",
    });
  }
  const type = response.headers.get("content-type") ?? "";
  if (type.startsWith("application/wasm")) return WebAssembly.compileStreaming(response);
  return WebAssembly.compile(await response.arrayBuffer());
}

/** One macrotask. Timers are clamped to 4 ms in browsers, messages are not; in workerd messages give other requests no turn. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof MessageChannel === "undefined" || runtimeName() === "workerd") {
      setTimeout(resolve, 0);
      return;
    }
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}

function runtimeName(): string {
  const { navigator, Deno, Bun } = globalThis as {
    navigator?: { userAgent?: string };
    Deno?: unknown;
    Bun?: unknown;
  };
  if (Deno !== undefined) return "deno";
  if (Bun !== undefined) return "bun";
  return navigator?.userAgent === "Cloudflare-Workers" ? "workerd" : "browser";
}

function deviceMemory(): number {
  const { navigator } = globalThis as { navigator?: { deviceMemory?: number; userAgent?: string } };
  if (/iPhone|iPad|iPod/.test(navigator?.userAgent ?? "")) return memoryPresets["ios-safari"].limitBytes;
  const gibibytes = navigator?.deviceMemory;
  return gibibytes === undefined ? 2048 * mebibyte : gibibytes * 512 * mebibyte;
}
