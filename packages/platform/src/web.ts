import { type FileSet, LowbitError, type OutputPlace, type Platform } from "@lowbit/core";
import { schemeOf, unknownScheme } from "./names.ts";
import { displayUrl, type RemoteOptions, remoteFiles } from "./remote.ts";

export type { RemoteOptions } from "./remote.ts";

export interface PlatformOptions extends RemoteOptions {
  /**
   * Memory that a model may take.
   * @default half of what `navigator.deviceMemory` tells, else 2 GiB; in Workers, 100 MiB of their 128
   */
  memoryLimitBytes?: number;
}

const mebibyte = 2 ** 20;

/** Browsers, Workers and other runtimes with web APIs only. */
export function platform(options: PlatformOptions = {}): Platform {
  const name = runtimeName();
  return {
    name,
    files(location, signal): Promise<FileSet> {
      return attempt(() => {
        if (signal?.aborted) throw new LowbitError("aborted", "Loading was aborted.", { reason: "aborted" });
        return remoteFiles(toUrl(location), options);
      });
    },
    wasm: (url, signal) => compile(url, options.fetch ?? globalThis.fetch.bind(globalThis), signal),
    now: () => performance.now(),
    yield: turn,
    memoryLimitBytes: options.memoryLimitBytes ?? defaultMemoryLimit(name),
  };
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

function toUrl(location: string | URL): URL {
  const known = ["an http(s): or blob: URL", "a path relative to the page", "a Blob", "a Uint8Array"];
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

/** One macrotask. Timers are clamped to 4 ms in browsers, messages are not. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof MessageChannel === "undefined") {
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

function defaultMemoryLimit(name: string): number {
  if (name === "workerd") return 100 * mebibyte;
  const { navigator } = globalThis as { navigator?: { deviceMemory?: number } };
  const gibibytes = navigator?.deviceMemory;
  return gibibytes === undefined ? 2048 * mebibyte : gibibytes * 512 * mebibyte;
}
