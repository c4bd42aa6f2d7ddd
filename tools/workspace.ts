import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** The repository's root. */
export const root: string = resolve(dirname(fileURLToPath(import.meta.url)), "..");

/** What the checks read of a package.json. */
export interface Manifest {
  name: string;
  private?: boolean;
  version?: string;
  description?: string;
  license?: string;
  packageManager?: string;
  type?: string;
  engines?: Record<string, string>;
  sideEffects?: unknown;
  bin?: Record<string, string>;
  exports?: Record<string, unknown>;
  files?: string[];
  publishConfig?: { exports?: Record<string, unknown>; bin?: Record<string, string> };
  scripts?: Record<string, string>;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  peerDependencies?: Record<string, string>;
}

export interface SourceFile {
  /** From the repository's root, with forward slashes. */
  readonly path: string;
  readonly text: string;
}

export interface WorkspacePackage {
  /** From the repository's root: "packages/core". */
  readonly folder: string;
  readonly manifest: Manifest;
  /** Every TypeScript file of the package. */
  readonly sources: readonly SourceFile[];
}

const ignored: ReadonlySet<string> = new Set([
  "node_modules",
  "dist",
  ".git",
  ".turbo",
  ".vitest",
  "coverage",
]);

/** Paths of all files below a folder, from the root; build outputs and installed packages are left out. */
export function filesBelow(folder: string): string[] {
  const found: string[] = [];
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = folder === "" ? entry.name : `${folder}/${entry.name}`;
    if (ignored.has(entry.name)) continue;
    if (entry.isDirectory()) found.push(...filesBelow(path));
    else if (entry.isFile()) found.push(path);
  }
  return found.sort();
}

export function readText(path: string): string {
  return readFileSync(join(root, path), "utf8");
}

export function readManifest(folder: string): Manifest {
  return JSON.parse(readText(folder === "" ? "package.json" : `${folder}/package.json`)) as Manifest;
}

/** Folders of the workspace's packages, from the patterns in pnpm-workspace.yaml. */
export function packageFolders(): string[] {
  const patterns = [...readText("pnpm-workspace.yaml").matchAll(/^ {2}- ([\w-]+(?:\/\*)?)$/gm)].map(
    (match) => match[1] as string,
  );
  const folders = patterns.flatMap((pattern) => {
    if (!pattern.endsWith("/*")) return [pattern];
    const parent = pattern.slice(0, -2);
    if (!existsSync(join(root, parent))) return [];
    return readdirSync(join(root, parent)).map((name) => `${parent}/${name}`);
  });
  return folders.filter((folder) => existsSync(join(root, folder, "package.json"))).sort();
}

/** Generated glue and build outputs are not ours to judge; everything else in TypeScript is. */
function isSource(path: string): boolean {
  return /\.m?ts$/.test(path) && !path.endsWith(".d.ts") && !path.includes("/pkg/");
}

export function readWorkspace(): WorkspacePackage[] {
  return packageFolders().map((folder) => ({
    folder,
    manifest: readManifest(folder),
    sources: filesBelow(folder)
      .filter(isSource)
      .map((path) => ({ path, text: readText(path) })),
  }));
}

export function fileBytes(path: string): number {
  return statSync(join(root, path)).size;
}

/** Is this file only for tests, benchmarks or building, not shipped? */
export function isDevelopment(path: string, folder: string): boolean {
  return /\.(test|bench)\.ts$/.test(path) || !path.startsWith(`${folder}/src/`);
}
