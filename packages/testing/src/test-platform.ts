import { readFile } from "node:fs/promises";
import type { Platform } from "@lowbit/core";
import { trackedFiles } from "./files.ts";

/** A platform for tests: local files, compiled modules from disk, and as much memory as is said. */
export function testPlatform(memoryLimitBytes: number = 2 ** 31): Platform {
  return {
    name: "test",
    files: (location) => Promise.resolve(trackedFiles(String(location))),
    wasm: async (url) => WebAssembly.compile(await readFile(url)),
    now: () => performance.now(),
    yield: () => new Promise((resolve) => setTimeout(resolve, 0)),
    memoryLimitBytes,
  };
}
