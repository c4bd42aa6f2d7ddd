/** The README's snippet as a Worker: bundled by wrangler as for deployment, and the bundle run by workerd. */
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Miniflare } from "miniflare";
import { run } from "./command.ts";
import { asWorker } from "./readme.ts";
import { expectLines, type Trial } from "./trial.ts";

const compatibilityDate = "2026-07-01";
const configuration = {
  name: "lowbit-readme",
  main: "worker.ts",
  compatibility_date: compatibilityDate,
  // As pico's README says.
  rules: [{ type: "Data", globs: ["**/*.gguf"], fallthrough: true }],
};

export async function workerTrials(folder: string, snippet: string): Promise<Trial[]> {
  await writeFile(join(folder, "worker.ts"), asWorker(snippet));
  await writeFile(join(folder, "wrangler.jsonc"), JSON.stringify(configuration));
  return [{ name: "wrangler: workerd", run: () => tryWorker(folder) }];
}

async function tryWorker(folder: string): Promise<string> {
  const target = "built-worker";
  const wrangler = join(folder, "node_modules/wrangler/bin/wrangler.js");
  const args = [wrangler, "deploy", "--dry-run", "--outdir", target];
  const env = { CI: "1", WRANGLER_SEND_METRICS: "false", NO_COLOR: "1" };
  const { stdout, stderr } = await run(process.execPath, args, { cwd: folder, env });
  const warning = `${stdout}${stderr}`.match(/WARNING.*/)?.[0];
  if (warning !== undefined) throw new Error(`wrangler complains: ${warning}`);
  const names = await readdir(join(folder, target));
  const script = join(folder, target, "worker.js");
  const data = names.filter((name) => /\.(wasm|gguf)$/.test(name));
  const miniflare = new Miniflare({
    modules: [
      { type: "ESModule", path: script },
      ...data.map((name) => ({
        type: name.endsWith(".wasm") ? ("CompiledWasm" as const) : ("Data" as const),
        path: join(folder, target, name),
      })),
    ],
    modulesRoot: join(folder, target),
    compatibilityDate,
  });
  try {
    const response = await miniflare.dispatchFetch("http://worker/");
    const body = await response.text();
    if (response.status !== 200) throw new Error(`The Worker answered ${response.status}: ${body}`);
    const answer = expectLines(JSON.parse(body) as string[], "workerd");
    const builtIn = /from\s*"node:[^"]+"/.exec(await readFile(script, "utf8"))?.[0];
    if (builtIn !== undefined) throw new Error(`The bundle imports Node's built-ins: ${builtIn}`);
    return `${answer}, ${await codeSize(folder, target, names)}`;
  } finally {
    await miniflare.dispose();
  }
}

/** Code and kernels, not minified, without the model. */
async function codeSize(folder: string, target: string, names: readonly string[]): Promise<string> {
  let bytes = 0;
  for (const name of names) {
    if (/\.(js|wasm)$/.test(name)) bytes += (await stat(join(folder, target, name))).size;
  }
  return `${Math.round(bytes / 1024)} KiB of code`;
}
