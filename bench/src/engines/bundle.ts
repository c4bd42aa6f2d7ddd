import { cpSync, mkdirSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** Where bundles go, and engines are started from. */
export const dist: string = fileURLToPath(new URL("../../dist/run", import.meta.url));

/** Entries that engines are started from, as a user would ship them: minified, the kernels beside them. */
export async function bundleEngines(to: string = dist): Promise<void> {
  rmSync(to, { recursive: true, force: true });
  mkdirSync(to, { recursive: true });
  const at = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
  const common = {
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2024",
    logLevel: "error",
  } as const;
  await build({
    ...common,
    entryPoints: [at("child.ts")],
    outdir: `${to}/node`,
    outExtension: { ".js": ".mjs" },
    platform: "node",
    splitting: true,
    external: ["node-llama-cpp"],
  });
  await build({
    ...common,
    entryPoints: [at("gguf-worker.ts"), at("folder-worker.ts")],
    outdir: `${to}/page`,
    platform: "browser",
    conditions: ["browser"],
  });
  const kernels = fileURLToPath(new URL("../../../kernels/wasm/pkg", import.meta.url));
  cpSync(kernels, `${to}/pkg`, { recursive: true });
}
