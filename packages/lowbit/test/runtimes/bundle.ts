import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build, type Plugin } from "esbuild";

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

/** Bundles edge.ts as one script that leaves `edge`, with the modules that it expects as `wasmModules`, as Vercel's builder does. */
export async function bundleEdge(): Promise<{
  script: string;
  wasmModules: Record<string, WebAssembly.Module>;
}> {
  const wasmModules: Record<string, WebAssembly.Module> = {};
  const modules: Plugin = {
    name: "wasm?module",
    setup(builder) {
      builder.onResolve({ filter: /\.wasm\?module$/ }, ({ path, resolveDir }) => ({
        path: join(resolveDir, path.replace(/\?module$/, "")),
        namespace: "module",
      }));
      builder.onLoad({ filter: /./, namespace: "module" }, ({ path }) => {
        wasmModules[path] = new WebAssembly.Module(readFileSync(path));
        return { contents: `export default globalThis.wasmModules[${JSON.stringify(path)}]` };
      });
    },
  };
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL("edge.ts", import.meta.url))],
    bundle: true,
    write: false,
    format: "iife",
    globalName: "edge",
    conditions: ["edge-light", "browser"],
    plugins: [modules],
    logLevel: "error",
  });
  return { script: outputFiles[0]?.text ?? "", wasmModules };
}

/** One file of a bundle. */
export function bundled(folder: string, name: string): { type: "ESModule" | "CompiledWasm"; path: string } {
  return { type: name.endsWith(".wasm") ? "CompiledWasm" : "ESModule", path: join(folder, name) };
}
