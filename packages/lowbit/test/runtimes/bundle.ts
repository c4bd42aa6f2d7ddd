import { readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** Bundles worker.ts as wrangler does: `.wasm` imports stay imports of modules. Returns the names of what lies in `folder`. */
export async function bundleWorker(folder: string): Promise<string[]> {
  await build({
    entryPoints: [fileURLToPath(new URL("worker.ts", import.meta.url))],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2024",
    conditions: ["workerd", "worker", "browser"],
    loader: { ".wasm": "copy" },
    outdir: folder,
    outExtension: { ".js": ".mjs" },
    logLevel: "silent",
  });
  return readdirSync(folder).sort();
}

/** One file of a bundle. */
export function bundled(folder: string, name: string): { type: "ESModule" | "CompiledWasm"; path: string } {
  return { type: name.endsWith(".wasm") ? "CompiledWasm" : "ESModule", path: join(folder, name) };
}
