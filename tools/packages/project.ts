import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Archive } from "./archives.ts";
import { run } from "./command.ts";

/** What the project's own package.json names; all others are there because these depend on them. */
const direct: readonly string[] = ["lowbit", "@lowbit/pico", "@lowbit/cli"];
/** Installed by the project alone: nobody else in this repository needs them. */
const bundlers = { vite: "8.3.8", wrangler: "4.164.0" };

/** A project as a user would start it: npm installs the archives, as if they came from the registry. */
export async function createProject(folder: string, archives: readonly Archive[]): Promise<void> {
  const files = new Map(archives.map(({ name, path }) => [name, `file:${path}`]));
  const dependencies = Object.fromEntries(direct.map((name) => [name, files.get(name)]));
  const overrides = Object.fromEntries([...files].filter(([name]) => !direct.includes(name)));
  const manifest = { private: true, type: "module", dependencies, devDependencies: bundlers, overrides };
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "package.json"), JSON.stringify(manifest, null, 2));
  const flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", "--loglevel=error"];
  await run("npm", ["install", ...flags], { cwd: folder, timeoutMs: 300_000 });
}
