/** What is wrong with a package as it would be published. */
import { checkPackage, type Package, type Problem } from "@arethetypeswrong/core";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import type { Manifest } from "../workspace.ts";
import type { Archive } from "./archives.ts";

/**
 * The order in which conditions must stand, as the first that holds wins: bundlers for Workers and for Vercel's edge set "browser"
 * too, Deno and Bun "node".
 */
const conditionOrder = ["types", "workerd", "deno", "bun", "edge-light", "browser", "node", "default"];

/** Left behind by a build or a test, or never meant for users. */
const unwanted = /\.(test|bench)\.|\.tsbuildinfo$|^(src|test|bench)\/|^tsconfig|(^|\/)\.env/;

/**
 * attw's profile "esm-only": packages are ESM with an exports map on purpose, so resolution by Node 10's rules and `require` in
 * TypeScript's node16 mode are left out, as its own command does. No rule is.
 */
const ignoredResolutions: readonly string[] = ["node10", "node16-cjs"];

/** Every problem in one sentence; none is a pass. `versions` has the version of each archive of the release. */
export async function lintArchive(
  archive: Archive,
  versions: ReadonlyMap<string, string>,
): Promise<string[]> {
  const { messages } = await publint({ pack: { tarball: archive.bytes.slice().buffer }, strict: true });
  return [
    ...contentProblems(archive.name, archive.contents),
    ...manifestProblems(archive.manifest, versions),
    ...messages.map((message) => {
      const text = formatMessage(message, { ...archive.manifest }, { color: false });
      return `publint: ${text ?? message.code}`;
    }),
    ...(await typeProblems(archive.contents)),
  ];
}

export function contentProblems(name: string, contents: Package): string[] {
  const base = `/node_modules/${name}/`;
  const problems = ["README.md", "LICENSE"]
    .filter((file) => !contents.tryReadFile(`${base}${file}`))
    .map((file) => `the archive has no ${file}.`);
  for (const path of contents.listFiles().map((path) => path.slice(base.length))) {
    if (unwanted.test(path)) problems.push(`${path} is published.`);
  }
  return problems;
}

export function manifestProblems(manifest: Manifest, versions: ReadonlyMap<string, string>): string[] {
  const problems: string[] = [];
  if (manifest.type !== "module") problems.push('package.json: "type" is "module" in every package.');
  if (manifest.engines?.node === undefined) problems.push('package.json: "engines.node" is missing.');
  if (manifest.sideEffects !== false)
    problems.push('package.json: "sideEffects" must be false, or bundlers keep all of it.');
  const { dependencies = {}, peerDependencies = {} } = manifest;
  for (const [name, version] of Object.entries({ ...dependencies, ...peerDependencies })) {
    const local = versions.get(name);
    if (/^(workspace|file|link):/.test(version)) problems.push(`package.json: ${name} is "${version}".`);
    else if (local !== undefined && version !== local)
      problems.push(`package.json: ${name} is ${version}, but ${local} is released with it.`);
    else if (local === undefined && name.startsWith("@lowbit/"))
      problems.push(`package.json: ${name} is not published.`);
  }
  return [...problems, ...conditionProblems("exports", manifest.exports ?? {})];
}

function conditionProblems(where: string, value: unknown): string[] {
  if (typeof value !== "object" || value === null) return [];
  const keys = Object.keys(value);
  const problems = Object.entries(value).flatMap(([key, inner]) =>
    conditionProblems(`${where}["${key}"]`, inner),
  );
  if (keys.every((key) => key.startsWith("."))) return problems;
  const unknown = keys.filter((key) => !conditionOrder.includes(key));
  if (unknown.length > 0)
    problems.push(`package.json: ${where} has the unknown condition ${unknown.join(", ")}.`);
  const wanted = conditionOrder.filter((key) => keys.includes(key));
  if (unknown.length === 0 && wanted.join() !== keys.join())
    problems.push(`package.json: ${where} must have its conditions in the order ${wanted.join(", ")}.`);
  return problems;
}

export async function typeProblems(contents: Package): Promise<string[]> {
  const result = await checkPackage(contents);
  // attw's own command passes a package without any types.
  if (result.types === false) return ["attw: the package has no types."];
  return result.problems
    .filter(
      (problem) => !("resolutionKind" in problem && ignoredResolutions.includes(problem.resolutionKind)),
    )
    .map((problem) => `attw: ${describeProblem(problem)}`);
}

function describeProblem({ kind, ...fields }: Problem): string {
  const where = Object.entries(fields)
    .filter(([, value]) => typeof value === "string")
    .map(([key, value]) => `${key} ${value}`);
  return `${kind} (${where.join(", ")})`;
}
