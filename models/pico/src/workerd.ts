import bytes from "../pico-Q8_0.gguf";

/**
 * As in index.ts, as the file's bytes: a Worker has no address of its own from which to find a file, so the bundler hands this one to
 * the runtime as a module of data. The folders are not here, as a Worker cannot hold any.
 */
export const picoGguf: Uint8Array<ArrayBuffer> = new Uint8Array(bytes);
