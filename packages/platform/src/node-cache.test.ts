import { existsSync } from "node:fs";
import { mkdtemp, rm, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ByteSource, LowbitError } from "@lowbit/core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type FaultServer, faultServer, noise } from "../test/fault-server.ts";
import { memoryStore } from "../test/memory-store.ts";
import { type CacheStore, cacheEntries } from "./cache-store.ts";
import { cached } from "./cached.ts";
import { cacheFolder, folderCache } from "./node-cache.ts";
import { remoteFiles } from "./remote.ts";

const mebibyte = 2 ** 20;
const small = noise(13 * mebibyte);
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

let server: FaultServer & { reset(): void };
let folder = "";
let store: CacheStore;
beforeAll(async () => {
  server = await faultServer();
});
afterAll(() => server.close());
beforeEach(async () => {
  server.reset();
  server.put("/m/model.gguf", small);
  folder = await mkdtemp(join(tmpdir(), "lowbit-cache-"));
  store = folderCache(folder);
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const patience = { retryDelayMs: 1, attempts: 2 };
const remote = (name: string) => remoteFiles(new URL(`/m/${name}.gguf`, server.base), patience);

async function readAll(source: ByteSource): Promise<Uint8Array> {
  const bytes = await source.read(0, source.size);
  await source.close?.();
  return bytes;
}

async function failure(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return "none";
  } catch (error) {
    if (LowbitError.is(error)) return `${error.code}/${error.reason}`;
    throw error;
  }
}

describe("eviction", () => {
  it("removes what was used least recently, and what belongs to nothing", async () => {
    const maxBytes = 30 * mebibyte;
    for (const name of ["a", "b", "c"]) {
      server.put(`/m/${name}.gguf`, small);
      const files = remote(name);
      await readAll(await cached(files, store, { maxBytes }).open(`${name}.gguf`));
      if (name === "a") await writeFile(join(folder, `${"0".repeat(32)}.${"1".repeat(12)}.0`), "orphan");
      await new Promise((done) => setTimeout(done, 2));
      // a is used again, so that b is the oldest.
      if (name === "b") {
        await readAll(await cached(remote("a"), store, { maxBytes }).open("a.gguf"));
        await new Promise((done) => setTimeout(done, 2));
      }
    }
    const names = (await cacheEntries(store)).map(({ name }) => name.slice(-6, -5));
    expect(names).toEqual(["c", "a"]);
    expect(existsSync(join(folder, `${"0".repeat(32)}.${"1".repeat(12)}.0`))).toBe(false);
    // What is larger than the whole cache is read from where it is.
    server.put("/m/d.gguf", small);
    const files = remote("d");
    expect(same(await readAll(await cached(files, store, { maxBytes: 100 }).open("d.gguf")), small)).toBe(
      true,
    );
    expect((await cacheEntries(store)).length).toBe(2);
  });

  it("makes room in a store that is full", async () => {
    const full = memoryStore(20 * mebibyte);
    for (const name of ["a", "b"]) {
      server.put(`/m/${name}.gguf`, small);
      const files = remote(name);
      expect(same(await readAll(await cached(files, full).open(`${name}.gguf`)), small)).toBe(true);
    }
    expect((await cacheEntries(full)).map(({ name }) => name.slice(-6, -5))).toEqual(["b"]);
    const tiny = memoryStore(5 * mebibyte);
    expect(await failure(cached(remote("model"), tiny).open("model.gguf"))).toBe(
      "out-of-memory/storage-full",
    );
  });
});

describe("folderCache", () => {
  it("lies where the system keeps such things", () => {
    expect(cacheFolder({ LOWBIT_CACHE: "/x" })).toBe("/x");
    if (process.platform === "linux") expect(cacheFolder({ XDG_CACHE_HOME: "/c" })).toBe("/c/lowbit");
  });

  it("is not made before it is written to, and forgets temporary files of the dead", async () => {
    const place = join(folder, "inner");
    const inner = folderCache(place);
    expect([await inner.list(), await inner.get("x"), existsSync(place)]).toEqual([[], undefined, false]);
    await inner.put("x", Uint8Array.of(1));
    await writeFile(join(place, "y.tmp"), "");
    await utimes(join(place, "y.tmp"), 1, 1);
    expect(await inner.list()).toEqual(["x"]);
    await expect(stat(join(place, "y.tmp"))).rejects.toMatchObject({ code: "ENOENT" });
    await inner.remove("x");
    await inner.remove("x");
    expect(await inner.list()).toEqual([]);
  });
});
