/**
 * Keeps the architecture: imports only go down the layers, manifests say what the code imports, shipped code stays
 * portable and typed, and files stay short. Reads every import and every package.json of the workspace.
 */
import { builtinModules } from "node:module";
import { posix } from "node:path";
import { type FileFacts, fileFacts } from "./file-facts.ts";
import { isDevelopment, readManifest, readWorkspace, type WorkspacePackage } from "./workspace.ts";

interface Layer {
  readonly level: number;
  readonly title: string;
  readonly folders: RegExp;
}

/** Lowest first. A package's shipped code may import workspace packages of lower levels only. */
const layers: readonly Layer[] = [
  { level: 1, title: "core", folders: /^packages\/core$/ },
  { level: 2, title: "packing", folders: /^packages\/packing$/ },
  {
    level: 3,
    title: "plugins, kernels, models, tokenizers, platform, grammar",
    folders: /^(plugins|kernels)\/|^packages\/(models|tokenizers|platform|grammar)$/,
  },
  { level: 4, title: "engine, convert, eval, train", folders: /^packages\/(engine|convert|eval|train)$/ },
  { level: 5, title: "lowbit, server, model files", folders: /^packages\/(lowbit|server)$|^models\// },
  { level: 6, title: "cli, ai-provider", folders: /^packages\/(cli|ai-provider)$/ },
  { level: 7, title: "testing (development only)", folders: /^packages\/testing$/ },
  { level: 8, title: "examples, bench", folders: /^examples\/|^bench$/ },
];

/** Up to here code runs on every runtime: no Node built-ins, no globals of one platform. */
const portableUpTo = 5;
/** Up to here kernels are handed over by the caller. */
const kernelFreeUpTo = 4;
/** From here on nothing is published. */
const unpublishedFrom = 7;
/** Only here may code touch one runtime's own interfaces. */
const platformFiles = /^packages\/platform\/src\/node[\w-]*\.ts$/;

const maxFileLines = 400;
/** The contracts of every noun, quantization types, the portable form of cached pages, and what requests and answers look like. */
const maxCoreLines = 2700;
/** Numbers, not logic. */
const tableFiles = /\/tables?\//;

const builtins: ReadonlySet<string> = new Set(builtinModules);

export function layerOf(folder: string): Layer | undefined {
  return layers.find((layer) => layer.folders.test(folder));
}

/** "@scope/name/sub" → "@scope/name"; undefined for relative paths and built-ins. */
function packageName(specifier: string): string | undefined {
  if (specifier.startsWith(".") || specifier.startsWith("/") || specifier.startsWith("node:"))
    return undefined;
  const parts = specifier.split("/");
  const name = specifier.startsWith("@") ? parts.slice(0, 2).join("/") : (parts[0] as string);
  return builtins.has(name) ? undefined : name;
}

function isBuiltin(specifier: string): boolean {
  return specifier.startsWith("node:") || builtins.has(specifier);
}

/** One sentence per breach; none is a pass. */
export function checkLayers(
  packages: readonly WorkspacePackage[],
  rootDevDependencies: Readonly<Record<string, string>> = {},
): string[] {
  const problems: string[] = [];
  const byName = new Map(packages.map((entry) => [entry.manifest.name, entry]));
  for (const entry of packages) {
    const layer = layerOf(entry.folder);
    if (layer === undefined) {
      problems.push(
        `${entry.folder}: no layer is known for this folder; give it one in tools/check-layers.ts.`,
      );
      continue;
    }
    const imported = { shipped: new Set<string>(), development: new Set<string>() };
    let lines = 0;
    for (const source of entry.sources) {
      const development = isDevelopment(source.path, entry.folder);
      const facts = fileFacts(source);
      problems.push(...checkFile(entry, layer, source.path, facts, development, byName));
      for (const specifier of facts.imports) {
        const name = packageName(specifier);
        if (name !== undefined) imported[development ? "development" : "shipped"].add(name);
      }
      if (!development) lines += facts.lines;
    }
    if (layer.level === 1 && lines > maxCoreLines) {
      problems.push(`${entry.folder}: ${lines} lines of source; core has a budget of ${maxCoreLines}.`);
    }
    problems.push(...checkManifest(entry, layer, imported, byName, rootDevDependencies));
  }
  return problems;
}

function checkFile(
  entry: WorkspacePackage,
  layer: Layer,
  path: string,
  facts: FileFacts,
  development: boolean,
  byName: ReadonlyMap<string, WorkspacePackage>,
): string[] {
  const problems: string[] = [];
  if (facts.lines > maxFileLines && !tableFiles.test(path)) {
    problems.push(`${path}: ${facts.lines} lines; files end at ${maxFileLines}, so split it by concept.`);
  }
  for (const specifier of facts.imports) {
    if (!specifier.startsWith(".")) continue;
    const target = posix.join(posix.dirname(path), specifier);
    if (!target.startsWith(`${entry.folder}/`)) {
      problems.push(`${path}: imports ${specifier} outside its package; import the package by name.`);
    }
  }
  if (development) return problems;

  for (const specifier of facts.imports) {
    const name = packageName(specifier);
    if (name === entry.manifest.name) {
      problems.push(`${path}: imports its own package ${name}; use a relative path.`);
      continue;
    }
    const target = name === undefined ? undefined : byName.get(name);
    if (target !== undefined) problems.push(...checkDirection(path, layer, target));
  }
  if (layer.level < unpublishedFrom) {
    for (const line of facts.anyLines)
      problems.push(`${path}:${line}: "any" in shipped code; give it a type.`);
    for (const line of facts.suppressedLines) {
      problems.push(`${path}:${line}: a compiler check is switched off; fix the type instead.`);
    }
  }
  if (layer.level <= portableUpTo && !platformFiles.test(path)) {
    for (const specifier of facts.imports) {
      if (isBuiltin(specifier)) {
        problems.push(
          `${path}: imports ${specifier}; Node's built-ins belong in packages/platform/src/node.ts.`,
        );
      }
    }
    for (const { name, line } of facts.platformGlobals) {
      problems.push(`${path}:${line}: uses ${name}, which not every runtime has; go through Platform.`);
    }
    if (!path.startsWith("packages/platform/")) {
      for (const { name, line } of facts.generatedCode) {
        problems.push(`${path}:${line}: ${name} compiles code at run time, which edge runtimes forbid.`);
      }
    }
  }
  return problems;
}

function checkDirection(where: string, layer: Layer, target: WorkspacePackage): string[] {
  const below = layerOf(target.folder);
  if (below === undefined) return [];
  const from = `${where}: layer ${layer.level} (${layer.title})`;
  if (below.level >= layer.level) {
    return [
      `${from} imports ${target.manifest.name} of layer ${below.level} (${below.title}); imports only go down.`,
    ];
  }
  if (layer.level <= kernelFreeUpTo && target.folder.startsWith("kernels/")) {
    return [
      `${from} imports the kernel package ${target.manifest.name}; kernels are handed over by the caller.`,
    ];
  }
  return [];
}

function checkManifest(
  entry: WorkspacePackage,
  layer: Layer,
  imported: { shipped: ReadonlySet<string>; development: ReadonlySet<string> },
  byName: ReadonlyMap<string, WorkspacePackage>,
  rootDevDependencies: Readonly<Record<string, string>>,
): string[] {
  const problems: string[] = [];
  const file = `${entry.folder}/package.json`;
  const { dependencies = {}, devDependencies = {}, peerDependencies = {} } = entry.manifest;
  const runtime = { ...dependencies, ...peerDependencies };
  if (layer.level === 1) {
    for (const name of Object.keys(runtime))
      problems.push(`${file}: core has no dependencies, but lists ${name}.`);
  }
  for (const [name, version] of Object.entries({ ...runtime, ...devDependencies })) {
    const local = byName.get(name);
    if (local !== undefined && version !== "workspace:*") {
      problems.push(`${file}: ${name} is in this workspace; its version is "workspace:*", not "${version}".`);
    }
    if (local === undefined && !/^(npm:.*@)?\d+\.\d+\.\d+$/.test(version)) {
      problems.push(`${file}: ${name} "${version}" is not an exact version.`);
    }
  }
  for (const name of Object.keys(runtime)) {
    const local = byName.get(name);
    if (local !== undefined) problems.push(...checkDirection(file, layer, local));
    if (!imported.shipped.has(name) && layer.level < unpublishedFrom) {
      problems.push(`${file}: depends on ${name}, but no shipped source imports it.`);
    }
  }
  for (const name of imported.shipped) {
    // Examples and benchmarks are never published: their own folder says nothing about shipping.
    const known =
      layer.level >= unpublishedFrom ? { ...runtime, ...devDependencies, ...rootDevDependencies } : runtime;
    if (name !== entry.manifest.name && !(name in known)) {
      problems.push(`${file}: ${name} is imported by shipped code, but is not among the dependencies.`);
    }
  }
  for (const name of imported.development) {
    if (name === entry.manifest.name || name in runtime || name in devDependencies) continue;
    if (!(name in rootDevDependencies))
      problems.push(`${file}: tests import ${name}, which nothing declares.`);
  }
  for (const name of Object.keys(devDependencies)) {
    if (imported.development.has(name) || imported.shipped.has(name) || name.startsWith("@types/")) continue;
    // Benchmarks serve some packages to a browser by their folder.
    if (layer.level >= unpublishedFrom && entry.sources.some(({ text }) => text.includes(`"${name}"`)))
      continue;
    problems.push(`${file}: lists ${name} for development, but no file imports it.`);
  }
  if (entry.manifest.private !== true) problems.push(...checkPublishing(entry));
  return problems;
}

/** What npm and its readers need of a published package. */
function checkPublishing(entry: WorkspacePackage): string[] {
  const problems: string[] = [];
  const file = `${entry.folder}/package.json`;
  const { manifest } = entry;
  if (manifest.license !== "MIT") problems.push(`${file}: the licence of a published package is MIT.`);
  if (!manifest.description) problems.push(`${file}: a published package has a description.`);
  if (!manifest.files?.length) problems.push(`${file}: "files" must say what is published.`);
  if (manifest.publishConfig?.exports === undefined) {
    problems.push(`${file}: "publishConfig.exports" must point at the built files.`);
  }
  if (manifest.bin !== undefined && manifest.publishConfig?.bin === undefined) {
    problems.push(`${file}: "publishConfig.bin" must point at the built command.`);
  }
  return problems;
}

/** All breaches in this repository. */
export function checkRepositoryLayers(): string[] {
  return checkLayers(readWorkspace(), readManifest("").devDependencies ?? {});
}

if (import.meta.main) {
  const problems = checkRepositoryLayers();
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length === 0 ? 0 : 1;
}
