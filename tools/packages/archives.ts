import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createPackageFromTarballData, type Package } from "@arethetypeswrong/core";
import { type Manifest, readManifest, readWorkspace, root } from "../workspace.ts";
import { run } from "./command.ts";

/** A package as it would be published. */
export interface Archive {
  readonly name: string;
  /** Path of the .tgz. */
  readonly path: string;
  readonly bytes: Uint8Array;
  /** The package.json in it. */
  readonly manifest: Manifest;
  /** Its files. Their paths begin with `/node_modules/<name>/`. */
  readonly contents: Package;
}

/** Packs every published package at once, into `folder`. `npm run build` comes first. */
export async function packPublished(folder: string): Promise<Archive[]> {
  const names = readWorkspace()
    .filter(({ manifest }) => manifest.private !== true)
    .map(({ manifest }) => manifest.name);
  // pnpm, as only it replaces "workspace:*" and what publishConfig overrides; of the version that the workspace pins.
  const pnpm = ["--yes", readManifest("").packageManager ?? "pnpm"];
  const filters = names.map((name) => `--filter=${name}`);
  await run("npx", [...pnpm, "--recursive", ...filters, "pack", "--pack-destination", folder], { cwd: root });
  // All packages have one version.
  const { version } = readManifest("packages/lowbit");
  return Promise.all(
    names.map((name) =>
      openArchive(name, join(folder, `${name.replace("@", "").replace("/", "-")}-${version}.tgz`)),
    ),
  );
}

/** Reads what was packed. */
export async function openArchive(name: string, path: string): Promise<Archive> {
  const bytes = new Uint8Array(await readFile(path));
  const contents = createPackageFromTarballData(bytes);
  const manifest = JSON.parse(contents.readFile(`/node_modules/${name}/package.json`)) as Manifest;
  return { name, path, bytes, manifest, contents };
}
