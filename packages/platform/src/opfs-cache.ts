import { LowbitError } from "@lowbit/core";
import type { CacheStore } from "./cache-store.ts";
import { webLock } from "./web-lock.ts";

interface Folder {
  getDirectoryHandle(name: string, options: { create: boolean }): Promise<Folder>;
  getFileHandle(
    name: string,
    options?: { create: boolean },
  ): Promise<{
    getFile(): Promise<Blob>;
    createWritable?(): Promise<{
      write(bytes: Uint8Array<ArrayBuffer>): Promise<void>;
      close(): Promise<void>;
      abort(): Promise<void>;
    }>;
  }>;
  removeEntry(name: string): Promise<void>;
  keys(): AsyncIterable<string>;
}

/**
 * A cache in the origin private file system: a folder of that name, or one of the caller's. Throws `bad-argument` where the runtime
 * has none. `navigator.storage.persist()` keeps the browser from clearing it.
 */
export function opfsCache(folder: string | object = "lowbit"): CacheStore {
  const name = typeof folder === "string" ? `opfs:${folder}` : "opfs:";
  let opened: Promise<Folder> | undefined;
  const place = (): Promise<Folder> => {
    opened ??= typeof folder === "string" ? openFolder(folder, name) : Promise.resolve(folder as Folder);
    return opened;
  };
  return {
    name,
    async list() {
      const names: string[] = [];
      // Chromium keeps what is being written beside the file under another name.
      for await (const object of (await place()).keys()) if (!object.endsWith(".crswap")) names.push(object);
      return names;
    },
    async get(object) {
      try {
        const handle = await (await place()).getFileHandle(object);
        return new Uint8Array(await (await handle.getFile()).arrayBuffer());
      } catch (error) {
        // NotReadableError: it was replaced in between.
        if (isNamed(error, "NotFoundError", "NotReadableError")) return undefined;
        throw error;
      }
    },
    async put(object, bytes) {
      const handle = await (await place()).getFileHandle(object, { create: true });
      if (handle.createWritable === undefined) throw unavailable(name, "files here cannot be written");
      const writable = await handle.createWritable();
      try {
        await writable.write(bytes as Uint8Array<ArrayBuffer>);
        // Until then the file is as it was.
        await writable.close();
      } catch (error) {
        await writable.abort().catch(() => undefined);
        if (isNamed(error, "QuotaExceededError")) throw storageFull(name, error);
        throw error;
      }
    },
    async remove(object) {
      await (await place()).removeEntry(object).catch((error: unknown) => {
        if (!isNamed(error, "NotFoundError", "NoModificationAllowedError")) throw error;
      });
    },
    lock: (object, signal, body) => webLock(`${name}/${object}`, signal, body),
  };
}

async function openFolder(folder: string, name: string): Promise<Folder> {
  const { navigator } = globalThis as {
    navigator?: { storage?: { getDirectory?: () => Promise<object> } };
  };
  const getDirectory = navigator?.storage?.getDirectory;
  if (getDirectory === undefined) throw unavailable(name, "this runtime has no origin private file system");
  const root = (await getDirectory.call(navigator?.storage)) as Folder;
  return root.getDirectoryHandle(folder, { create: true });
}

export function isNamed(error: unknown, ...names: string[]): boolean {
  return names.includes((error as { name?: string } | undefined)?.name ?? "");
}

export function storageFull(name: string, cause: unknown): LowbitError {
  return new LowbitError("out-of-memory", `${name} is full.`, {
    reason: "storage-full",
    hint: "Make room, allow the site more storage, or load without a cache.",
    cause,
  });
}

export function unavailable(name: string, what: string): LowbitError {
  return new LowbitError("bad-argument", `${name}: ${what}.`, {
    reason: "no-storage",
    hint: "Use another store, or load without a cache.",
  });
}
