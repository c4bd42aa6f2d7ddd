import { lstat, open, readdir, realpath, rename, rm, rmdir } from "node:fs/promises";
import { dirname, join, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { LowbitError, type OutputPlace } from "@lowbit/core";
import { writableFolder, writeError } from "./node-folder.ts";
import { takeLock } from "./node-lock.ts";

export interface OutputOptions {
  /** Replace a file, or a folder that holds a model and nothing else. @default false */
  overwrite?: boolean;
  /** Path or URL of what is read meanwhile: it is never replaced. */
  source?: string | URL;
}

/**
 * A new file or folder at a local path. Work goes on in `<path>.partial`, in which one process at a time may be; renaming gives it
 * its name. Throws `bad-argument`: `exists`, `not-a-model`, `own-source`, `in-use`.
 */
export async function outputPlace(path: string | URL, options: OutputOptions = {}): Promise<OutputPlace> {
  const target = resolve(pathOf(path));
  const base = `${target}.partial`;
  const [state, result, replaced] = ["state", "result", "replaced"].map((name) => join(base, name)) as [
    string,
    string,
    string,
  ];
  await recover(target, replaced);
  await checkFree(target, options);
  const staging = await writableFolder(state);
  const unlock = await lock(join(base, "lock"), target);
  const discard = async (): Promise<void> => {
    // The lock last: until then the place is ours.
    for (const folder of [state, result, replaced]) await rm(folder, { recursive: true, force: true });
    await unlock();
    await rmdir(base).catch(() => undefined);
  };
  return {
    name: String(path),
    staging,
    async begin() {
      await rm(result, { recursive: true, force: true });
      return writableFolder(result);
    },
    async publish(file) {
      await checkFree(target, options);
      try {
        // Only a file takes another's place by renaming.
        const kind = await kindAt(target);
        if (kind === "folder" || (kind !== undefined && file === undefined)) await rename(target, replaced);
        await rename(file === undefined ? result : join(result, file), target);
        await syncFolder(dirname(target));
      } catch (error) {
        await recover(target, replaced);
        throw writeError(target, error);
      }
      await discard();
    },
    discard,
    async close() {
      await unlock();
      // Nothing was staged: the folders go, too.
      for (const folder of [state, base]) await rmdir(folder).catch(() => undefined);
    },
  };
}

function pathOf(location: string | URL): string {
  return /^file:/.test(String(location)) ? fileURLToPath(location) : String(location);
}

/** A replaced folder goes back if a run ended between taking it away and putting the new one there. */
async function recover(target: string, replaced: string): Promise<void> {
  if ((await kindAt(replaced)) !== undefined && (await kindAt(target)) === undefined) {
    await rename(replaced, target);
  }
}

async function checkFree(target: string, { overwrite = false, source }: OutputOptions): Promise<void> {
  const kind = await kindAt(target);
  if (kind === undefined) return;
  const refuse = (reason: string, what: string, hint: string) =>
    new LowbitError("bad-argument", `${target} ${what}.`, { reason, hint });
  if (source !== undefined) {
    const [old, read] = await Promise.all([realpath(target), realpath(pathOf(source)).catch(() => "")]);
    if (read === old || read.startsWith(old + sep)) {
      throw refuse("own-source", "is what is being read", "Give the output another name.");
    }
  }
  if (!overwrite)
    throw refuse("exists", "is there already", "Give another name, or set overwrite (--overwrite).");
  if (kind === "file") return;
  const names = kind === "folder" ? await readdir(target, { withFileTypes: true }) : [];
  const model =
    names.length === 0 || names.some(({ name }) => /^config\.json$|\.(safetensors|gguf)$/.test(name));
  if (kind === "other" || !model || names.some((item) => !item.isFile())) {
    throw refuse(
      "not-a-model",
      "is no folder of a model alone, so it is not replaced",
      "Give another name, or remove it yourself.",
    );
  }
}

/** What stands at a path; a link counts as what it is, and renaming replaces it alone. */
async function kindAt(path: string): Promise<"file" | "folder" | "other" | undefined> {
  const info = await lstat(path).catch((error: { code?: string }) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
    throw writeError(path, error);
  });
  if (info === undefined) return undefined;
  if (info.isDirectory()) return "folder";
  return info.isFile() || info.isSymbolicLink() ? "file" : "other";
}

/** Takes the lock, over a dead process if need be; returns what frees it. */
async function lock(path: string, target: string): Promise<() => Promise<void>> {
  const free = await takeLock(path);
  if (free !== undefined) return free;
  throw new LowbitError("bad-argument", `${target} is being written by another run.`, {
    reason: "in-use",
    hint: `Wait for it; if there is none, remove ${path}.`,
  });
}

/** Makes a rename last over a loss of power, where the system can. */
async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, "r").catch(() => undefined);
  try {
    await handle?.sync().catch(() => undefined);
  } finally {
    await handle?.close();
  }
}
