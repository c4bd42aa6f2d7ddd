import { createHash, randomUUID } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { LowbitError, throwIfAborted } from "@lowbit/core";
import type { CacheStore } from "./cache-store.ts";
import { pause } from "./http.ts";
import { writeError } from "./node-folder.ts";
import { takeLock } from "./node-lock.ts";

const lockPollMs = 100;
/** What a process that was killed leaves behind. */
const staleMs = 3_600_000;
const temporary = /\.tmp$/;
const lockFile = /\.lock$/;

/** A cache in a local folder, made when it is first written to. Any number of processes may use it at once. */
export function folderCache(folder: string = cacheFolder()): CacheStore {
  const path = (object: string): string => join(folder, object);
  const make = async (): Promise<void> => {
    await mkdir(folder, { recursive: true }).catch((error: unknown) => {
      throw writeError(folder, error);
    });
  };
  return {
    name: folder,
    async list() {
      const names = await readdir(folder).catch(absent([]));
      for (const name of names.filter((one) => temporary.test(one))) {
        const info = await stat(path(name)).catch(absent(undefined));
        if (info !== undefined && Date.now() - info.mtimeMs > staleMs) await rm(path(name), { force: true });
      }
      return names.filter((name) => !temporary.test(name) && !lockFile.test(name));
    },
    get: (object) => readFile(path(object)).catch(absent(undefined)),
    async put(object, bytes) {
      await make();
      const work = path(`${object}.${randomUUID()}.tmp`);
      try {
        // Bytes are held against their hash whenever they are read, so that nothing need wait for the disk.
        await writeFile(work, bytes);
        await rename(work, path(object));
      } catch (error) {
        await rm(work, { force: true });
        const known = writeError(folder, error);
        if (known.reason !== "disk-full") throw known;
        throw new LowbitError("out-of-memory", `${folder}: the disk is full.`, {
          reason: "storage-full",
          hint: "Make room, or see lowbit cache remove.",
          cause: error,
        });
      }
    },
    remove: (object) => rm(path(object), { force: true }),
    async lock(object, signal, body) {
      await make();
      for (;;) {
        throwIfAborted(signal);
        const free = await takeLock(path(`${object}.lock`));
        if (free === undefined) {
          await pause(lockPollMs, signal);
          continue;
        }
        try {
          return await body();
        } finally {
          await free();
        }
      }
    },
    hasher() {
      const hash = createHash("sha256");
      return {
        update(bytes) {
          hash.update(bytes);
        },
        hex: () => hash.digest("hex"),
      };
    },
  };
}

/** Where downloads lie by this system's custom; LOWBIT_CACHE names another folder. */
export function cacheFolder(env: Readonly<Record<string, string | undefined>> = process.env): string {
  if (env.LOWBIT_CACHE) return env.LOWBIT_CACHE;
  if (process.platform === "darwin") return join(homedir(), "Library", "Caches", "lowbit");
  if (process.platform === "win32" && env.LOCALAPPDATA) return join(env.LOCALAPPDATA, "lowbit", "Cache");
  return join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "lowbit");
}

function absent<T>(value: T): (error: unknown) => T {
  return (error) => {
    const { code } = error as { code?: string };
    if (code === "ENOENT" || code === "ENOTDIR") return value;
    throw error;
  };
}
