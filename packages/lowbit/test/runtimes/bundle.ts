import { cpSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

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
