import type { FileSet } from "./bytes.ts";

/** Starts threads that can share memory with their host. */
export interface ThreadHost {
  /** Processors that the runtime may use at once. */
  readonly processors: number;
  /**
   * Runs JavaScript in a thread of its own. The script finds two functions: `receive(listener)` for what the host sends, `send(message)` to
   * the host. Throws, or calls `error`, where the runtime refuses.
   */
  start(script: string, listeners: ThreadListeners): Thread;
}

export interface ThreadListeners {
  message(value: unknown): void;
  /** The thread could not start, or has ended with an error. */
  error(cause: unknown): void;
}

export interface Thread {
  /** By structured clone: shared memory and compiled modules, too. */
  send(message: unknown): void;
  /** Whether the runtime waits for this thread before it ends by itself. @default true */
  hold(on: boolean): void;
  terminate(): void;
}

/** What a runtime provides. Adapters live in @lowbit/platform; core and engine touch no platform global. */
export interface Platform {
  /** "node", "deno", "bun", "workerd", "browser". */
  readonly name: string;
  /** Opens a local path or URL as a set of files. Throws `not-found`. */
  files(location: string | URL, signal?: AbortSignal): Promise<FileSet>;
  /** A compiled module. `url` is where the package ships it; runtimes that forbid compilation resolve it otherwise. */
  wasm(url: URL, signal?: AbortSignal): Promise<WebAssembly.Module>;
  /** Threads; absent where there are none, or none that may share memory. */
  readonly threads?: ThreadHost;
  /** Milliseconds, monotonic. */
  now(): number;
  /** Lets other tasks run: one turn of the event loop. */
  yield(): Promise<void>;
  /** Memory that a model may take: weights, cache, activations, tokenizer. */
  readonly memoryLimitBytes: number;
}
