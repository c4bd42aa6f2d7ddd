import { readdirSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

/**
 * Bundles a module for Cloudflare Workers as wrangler does: `.wasm` imports stay imports of modules. Returns the names of what lies in `folder`, the
 * entry, worker.mjs, first.
 */
export async function bundleWorker(entry: string, folder: string): Promise<string[]> {
  await build({
    entryPoints: { worker: entry },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2024",
    conditions: ["workerd", "worker", "browser"],
    loader: { ".wasm": "copy" },
    outdir: folder,
    outExtension: { ".js": ".mjs" },
    logLevel: "error",
  });
  return readdirSync(folder).sort().reverse();
}

/** A bundle's files as Miniflare takes them. */
export function workerModules(
  folder: string,
  names: readonly string[],
): { type: "ESModule" | "CompiledWasm"; path: string }[] {
  return names.map((name) => ({
    type: name.endsWith(".wasm") ? "CompiledWasm" : "ESModule",
    path: join(folder, name),
  }));
}
