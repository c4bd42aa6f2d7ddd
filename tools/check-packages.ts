/**
 * Tries what users would install. Packs every package that is published; lints each archive (contents, manifest, publint, attw); has npm
 * install the archives into a fresh project, and there runs the READMEs' snippets on each Node given (default: this one), Deno and Bun,
 * in a page built by Vite and in a Worker built by wrangler, the command and the types. Run `npm run build` first; needs the package registry.
 */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Archive, packPublished } from "./packages/archives.ts";
import { lintArchive } from "./packages/lint.ts";
import { pageTrials } from "./packages/page.ts";
import { createProject } from "./packages/project.ts";
import { firstSnippet } from "./packages/readme.ts";
import { scriptTrials } from "./packages/scripts.ts";
import type { Trial } from "./packages/trial.ts";
import { workerTrials } from "./packages/worker.ts";
import { readText } from "./workspace.ts";

let failures = 0;

async function timed<T>(body: () => Promise<T>): Promise<{ value: T; seconds: string }> {
  const started = performance.now();
  const value = await body();
  return { value, seconds: `${((performance.now() - started) / 1000).toFixed(1)} s` };
}

/** One line of the table, and what is wrong below it. */
function report(name: string, detail: string, problems: readonly string[]): void {
  if (problems.length > 0) failures++;
  console.log(`${problems.length === 0 ? "ok  " : "FAIL"} ${name.padEnd(30)} ${detail}`.trimEnd());
  for (const problem of problems) console.log(problem.trimEnd().replace(/^/gm, "       "));
}

async function lintAll(archives: readonly Archive[]): Promise<void> {
  const versions = new Map(archives.map(({ name, manifest }) => [name, manifest.version ?? ""]));
  for (const archive of archives) {
    const problems = await lintArchive(archive, versions);
    const files = `${archive.contents.listFiles().length} files`.padStart(9);
    const size = `${(archive.bytes.byteLength / 1000).toFixed(1)} kB`.padStart(11);
    report(archive.name, `${files}${size}`, problems);
  }
}

async function attempt({ name, run }: Trial): Promise<void> {
  try {
    const { value, seconds } = await timed(run);
    report(name, `${seconds.padStart(6)}  ${value}`, []);
  } catch (error) {
    report(name, "", [error instanceof Error ? error.message : String(error)]);
  }
}

const nodes = process.argv.length > 2 ? process.argv.slice(2) : [process.execPath];
const folder = await mkdtemp(join(tmpdir(), "lowbit-packages-"));
try {
  const packed = await timed(() => packPublished(folder));
  console.log(`-- ${packed.value.length} archives, packed in ${packed.seconds}`);
  await lintAll(packed.value);
  const project = join(folder, "project");
  const installed = await timed(() => createProject(project, packed.value));
  console.log(`-- a fresh project, installed in ${installed.seconds}`);
  const readme = await readFile(join(project, "node_modules/lowbit/README.md"), "utf8");
  const snippets = {
    package: firstSnippet("lowbit/README.md", readme),
    repository: firstSnippet("README.md", readText("README.md")),
  };
  for (const trial of [
    ...(await scriptTrials(project, snippets, nodes)),
    ...(await pageTrials(project, snippets.package)),
    ...(await workerTrials(project, snippets.package)),
  ])
    await attempt(trial);
} finally {
  await rm(folder, { recursive: true, force: true });
}
if (failures > 0) console.log(`\n${failures} failed`);
process.exitCode = failures === 0 ? 0 : 1;
