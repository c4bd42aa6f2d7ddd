import { cpSync, readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** Bundles a Worker as wrangler does: `.wasm` imports stay imports of modules. Returns the names of what lies in `folder`. */
export async function bundleWorker(folder: string, entry = "worker.ts"): Promise<string[]> {
  await build({
    entryPoints: { worker: fileURLToPath(new URL(entry, import.meta.url)) },
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

/** A page with its script in `folder`/page, and the kernels where the script looks for them. */
export async function bundlePage(folder: string, entry: string): Promise<void> {
  const output = join(folder, "page", basename(entry).replace(/ts$/, "js"));
  await build({
    entryPoints: [fileURLToPath(new URL(entry, import.meta.url))],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2024",
    conditions: ["browser"],
    outfile: output,
    logLevel: "error",
  });
  const script = `<!doctype html><script type="module" src="${basename(output)}"></script>`;
  writeFileSync(join(folder, "page/index.html"), script);
  const kernels = new URL("../../../../kernels/wasm/pkg", import.meta.url);
  cpSync(fileURLToPath(kernels), join(folder, "pkg"), { recursive: true });
}

/** One file of a bundle. */
export function bundled(folder: string, name: string): { type: "ESModule" | "CompiledWasm"; path: string } {
  return { type: name.endsWith(".wasm") ? "CompiledWasm" : "ESModule", path: join(folder, name) };
}
