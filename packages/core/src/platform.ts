import type { FileSet } from "./bytes.ts";

/** What a runtime provides. Adapters live in @lowbit/platform; core and engine touch no platform global. */
export interface Platform {
  /** "node", "deno", "bun", "workerd", "browser". */
  readonly name: string;
  /** Opens a local path or URL as a set of files. Throws `not-found`. */
  files(location: string | URL, signal?: AbortSignal): Promise<FileSet>;
  /** A compiled module. `url` is where the package ships it; runtimes that forbid compilation resolve it otherwise. */
  wasm(url: URL, signal?: AbortSignal): Promise<WebAssembly.Module>;
  /** Milliseconds, monotonic. */
  now(): number;
  /** Lets other tasks run: one turn of the event loop. */
  yield(): Promise<void>;
  /** Memory that a model may take: weights, cache, activations, tokenizer. */
  readonly memoryLimitBytes: number;
}
