import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ByteSource, type FileSet, LowbitError } from "@lowbit/core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type FaultServer, faultServer, noise } from "../test/fault-server.ts";
import { type CacheStore, cacheEntries, removeFromCache, verifyCacheEntry } from "./cache-store.ts";
import { cached } from "./cached.ts";
import type { CacheOptions } from "./download.ts";
import { folderCache } from "./node-cache.ts";
import { remoteFiles } from "./remote.ts";

const mebibyte = 2 ** 20;
/** Three pieces and a bit. */
const small = noise(13 * mebibyte);
/** More than is fetched as it is read. */
const large = noise(45 * mebibyte, 5);
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
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
const remote = (): FileSet => remoteFiles(new URL("/m/model.gguf", server.base), patience);

/** The same files, whose keeper states a hash. */
function stating(files: FileSet, hash: string): FileSet {
  return {
    ...files,
    open: async (file, signal) => Object.assign(await files.open(file, signal), { sha256: hash }),
  };
}

const open = (files: FileSet = remote(), options: CacheOptions = {}): Promise<ByteSource> =>
  cached(files, store, options).open("model.gguf");

async function readAll(source: ByteSource): Promise<Uint8Array> {
  const bytes = await source.read(0, source.size);
  await source.close?.();
  return bytes;
}

/** Bytes of bodies, but the one that opens a file. */
const sent = (): number => server.log.reduce((sum, one) => sum + (one.sent > 1 ? one.sent : 0), 0);

async function failure(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return "none";
  } catch (error) {
    if (LowbitError.is(error)) return `${error.code}/${error.reason}`;
    throw error;
  }
}

/** Turns one bit of the stored piece. */
async function damage(index: number): Promise<void> {
  const name = (await readdir(folder)).find((file) => file.endsWith(`.${index}`)) as string;
  const bytes = await readFile(join(folder, name));
  bytes[1234] = (bytes[1234] as number) ^ 4;
  await writeFile(join(folder, name), bytes);
}

describe("cached", () => {
  it("downloads once, reads any range, and tells what it does", async () => {
    const seen: number[] = [];
    const source = await open(remote(), { onProgress: ({ doneBytes }) => seen.push(doneBytes) });
    expect(sent()).toBe(small.length);
    expect(seen).toEqual([4, 8, 12, 13].map((n) => n * mebibyte));
    for (const [offset, length] of [
      [0, 0],
      [0, 10],
      [4 * mebibyte - 5, 10],
      [mebibyte, 11 * mebibyte],
      [small.length - 1, 1],
    ] as const)
      expect(same(await source.read(offset, length), small.subarray(offset, offset + length))).toBe(true);
    await expect(source.read(small.length, 1)).rejects.toMatchObject({ reason: "truncated" });
    await source.close?.();

    expect(same(await readAll(await open()), small)).toBe(true);
    expect(sent()).toBe(small.length);
    const [entry] = await cacheEntries(store);
    expect(entry).toMatchObject({
      name: `${server.base}/m/model.gguf`,
      size: small.length,
      storedBytes: small.length,
      complete: true,
      sha256: sha256(small),
    });
    expect(await verifyCacheEntry(store, entry?.id ?? "")).toBe(true);
  });

  it("serves what is whole when nobody answers, and nothing else", async () => {
    await readAll(await open());
    const files = remote();
    server.faults.status = { code: 503, times: 2 };
    expect(same(await readAll(await open(files)), small)).toBe(true);
    const lost: FileSet = {
      ...files,
      list: () => Promise.reject(new LowbitError("not-found", "gone", { reason: "network" })),
    };
    expect(await cached(lost, store).list()).toEqual(["model.gguf"]);
    server.faults.status = { code: 503, times: 2 };
    expect(await failure(cached(files, store).open("other.gguf"))).toBe("not-found/http-503");
    // A file that is gone is gone.
    server.faults.status = { code: 404, times: 2 };
    expect(await failure(open(files))).toBe("not-found/http-404");
  });

  it("takes a new version, keeping the old until the new one is whole", async () => {
    await readAll(await open());
    const next = noise(13 * mebibyte, 2);
    server.put("/m/model.gguf", next);
    server.faults.cut = { after: 100, times: 99 };
    expect(await failure(open())).toBe("file-corrupt/interrupted");
    server.faults.status = { code: 503, times: 2 };
    expect(same(await readAll(await open()), small)).toBe(true);
    server.faults.cut.times = 0;
    expect(same(await readAll(await open()), next)).toBe(true);
    expect((await readdir(folder)).filter((name) => /\.\d+$/.test(name)).length).toBe(4);
  });

  it("goes on where a download was interrupted", async () => {
    let requests = 0;
    server.onRequest = () => {
      if (++requests === 4) server.faults.cut = { after: 10, times: 99 };
    };
    expect(await failure(open())).toBe("file-corrupt/interrupted");
    const first = sent();
    server.reset();
    expect(same(await readAll(await open()), small)).toBe(true);
    expect(sent()).toBeLessThan(small.length);
    expect(first + sent()).toBeGreaterThanOrEqual(small.length);
  });

  it("starts again where the file has changed meanwhile, or cannot be told from another", async () => {
    for (const etag of [true, false]) {
      server.reset();
      server.put("/m/model.gguf", small);
      await removeFromCache(store);
      server.faults.etag = etag;
      let requests = 0;
      server.onRequest = () => {
        if (++requests === 4) server.faults.cut = { after: 10, times: 99 };
      };
      expect(await failure(open())).toBe("file-corrupt/interrupted");
      server.reset();
      server.faults.etag = etag;
      const next = noise(13 * mebibyte, 3);
      server.put("/m/model.gguf", next);
      expect(same(await readAll(await open()), next)).toBe(true);
      expect(sent()).toBe(small.length);
    }
  });

  it("ends a download whose file changes under it, and gets the new one the next time", async () => {
    const next = noise(13 * mebibyte, 4);
    let requests = 0;
    server.onRequest = () => {
      if (++requests === 4) server.put("/m/model.gguf", next);
    };
    expect(await failure(open())).toBe("file-corrupt/changed");
    server.onRequest = undefined;
    expect(same(await readAll(await open()), next)).toBe(true);
  });

  it("goes on after the process was killed", async () => {
    const child = spawn(
      process.execPath,
      [join(import.meta.dirname, "../test/download.ts"), server.base, folder],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    // The second piece and what follows never end.
    server.faults.stall = { after: mebibyte, times: 0 };
    let ranges = 0;
    server.onRequest = () => {
      if (++ranges === 3) server.faults.stall.times = 99;
    };
    await new Promise<void>((done) => child.stdout.on("data", () => done()));
    child.kill("SIGKILL");
    await new Promise((done) => child.on("exit", done));
    const files = await readdir(folder);
    expect(files.some((name) => name.endsWith(".lock"))).toBe(true);
    expect(files.some((name) => name.endsWith(".json"))).toBe(false);
    server.reset();
    expect(same(await readAll(await open()), small)).toBe(true);
    expect(sent()).toBeLessThan(small.length);
  });

  it("is safe for several at once: one downloads, all read", async () => {
    const other = folderCache(folder);
    const sources = await Promise.all([
      open(),
      open(),
      cached(remote(), other).open("model.gguf"),
      cached(remote(), other).open("model.gguf"),
    ]);
    for (const source of sources) expect(same(await readAll(source), small)).toBe(true);
    expect(sent()).toBe(small.length);
  });

  it("waits for another process, and can be aborted while it does", async () => {
    await writeFile(join(folder, "x.lock"), JSON.stringify({ pid: process.ppid, instance: "other" }));
    const signal = AbortSignal.timeout(150);
    expect(await failure(store.lock("x", signal, () => Promise.resolve()))).toBe("aborted/aborted");
    await writeFile(join(folder, "x.lock"), "torn");
    expect(await store.lock("x", undefined, () => Promise.resolve("mine"))).toBe("mine");
  });

  it("aborts, keeping what came", async () => {
    const control = new AbortController();
    const options: CacheOptions = { parallel: 1, onProgress: () => control.abort() };
    expect(await failure(cached(remote(), store, options).open("model.gguf", control.signal))).toBe(
      "aborted/aborted",
    );
    expect((await cacheEntries(store))[0]).toMatchObject({ complete: false, storedBytes: 4 * mebibyte });
    expect(same(await readAll(await open()), small)).toBe(true);
    expect(sent()).toBeLessThan(small.length + 4 * mebibyte + 1);
  });

  it("streams from a server without ranges", async () => {
    Object.assign(server.faults, { ranges: false, cut: { after: 5 * mebibyte, times: 1 } });
    const tight = remoteFiles(new URL("/m/model.gguf", server.base), { ...patience, maxStreamedBytes: 1000 });
    expect(same(await readAll(await open(tight)), small)).toBe(true);
    server.log.length = 0;
    expect(same(await readAll(await open(tight)), small)).toBe(true);
    expect(server.log.length).toBe(1);
  });
});

describe("what is wrong never comes out:", () => {
  it("a bit that turns on the way is found by the stated hash, and fetched again", async () => {
    const files = stating(remote(), sha256(small));
    server.faults.flip = { at: 9 * mebibyte, times: 1 };
    expect(same(await readAll(await open(files)), small)).toBe(true);
    await removeFromCache(store);
    server.faults.flip = { at: 9 * mebibyte, times: 99 };
    expect(await failure(open(files))).toBe("file-corrupt/sha256");
    expect(await cacheEntries(store)).toEqual([]);
    expect((await readdir(folder)).filter((name) => /\.\d+$|json$/.test(name))).toEqual([]);
  });

  it("a bit that turns in the store is found when it is read, and the piece fetched again", async () => {
    await readAll(await open());
    const [entry] = await cacheEntries(store);
    await damage(2);
    expect(await verifyCacheEntry(store, entry?.id ?? "")).toBe(false);
    server.log.length = 0;
    expect(same(await readAll(await open()), small)).toBe(true);
    expect(server.log.map(({ range }) => range)).toEqual([
      "bytes=0-0",
      `bytes=${8 * mebibyte}-${12 * mebibyte - 1}`,
    ]);
    expect(await verifyCacheEntry(store, entry?.id ?? "")).toBe(true);

    // Without a connection there is no help.
    await damage(2);
    server.faults.status = { code: 503, times: 2 };
    const source = await open();
    expect(same(await source.read(0, 100), small.subarray(0, 100))).toBe(true);
    expect(await failure(source.read(9 * mebibyte, 10))).toBe("file-corrupt/cache-corrupt");
  });

  it("a piece that is sound, but another's, is not taken for this one", async () => {
    await readAll(await open());
    const names = await readdir(folder);
    const piece = (index: number): string =>
      join(folder, names.find((name) => name.endsWith(`.${index}`)) as string);
    // Its own hash lies in it, and is right.
    await writeFile(piece(1), await readFile(piece(0)));
    expect(same(await readAll(await open()), small)).toBe(true);
    expect(same(await readAll(await open()), small)).toBe(true);
  });

  it("a record that makes no sense counts as none; lost pieces come again, without ranges, too", async () => {
    await readAll(await open());
    const names = await readdir(folder);
    await writeFile(join(folder, names.find((name) => name.endsWith(".json")) ?? ""), "{}");
    expect(same(await readAll(await open()), small)).toBe(true);
    server.faults.ranges = false;
    await damage(1);
    await rm(join(folder, (await readdir(folder)).find((name) => name.endsWith(".0")) ?? ""));
    expect(same(await readAll(await open()), small)).toBe(true);
  });

  it("a piece that was damaged while the rest was still to come", async () => {
    let requests = 0;
    server.onRequest = () => {
      if (++requests === 4) server.faults.cut = { after: 10, times: 99 };
    };
    await failure(open());
    await damage(0);
    server.reset();
    expect(same(await readAll(await open()), small)).toBe(true);
  });
});

describe("a large file", () => {
  beforeEach(() => server.put("/m/model.gguf", large));

  it("is looked into before it is downloaded", async () => {
    const files = stating(remote(), sha256(large));
    const source = await open(files);
    expect(same(await source.read(0, 1000), large.subarray(0, 1000))).toBe(true);
    await source.close?.();
    expect(sent()).toBe(4 * mebibyte);
    const again = await open(files);
    await again.read(0, 5 * mebibyte);
    expect(sent()).toBe(8 * mebibyte);
    expect((await cacheEntries(store))[0]).toMatchObject({ complete: false, storedBytes: 8 * mebibyte });
    expect(
      same(await again.read(40 * mebibyte, mebibyte), large.subarray(40 * mebibyte, 41 * mebibyte)),
    ).toBe(true);
    expect(sent()).toBe(12 * mebibyte);
    expect(same(await again.read(0, large.length), large)).toBe(true);
    expect(sent()).toBe(large.length);
    expect((await cacheEntries(store))[0]?.complete).toBe(true);
    await again.close?.();
  });

  it("whose hash is wrong gives no more than its beginning", async () => {
    const source = await open(stating(remote(), sha256(small)));
    expect((await source.read(0, 1000)).length).toBe(1000);
    expect(await failure(source.read(0, large.length))).toBe("file-corrupt/sha256");
  });

  it("whose beginning was wrong, and is right the second time, is not read on", async () => {
    server.faults.flip = { at: 500, times: 1 };
    const source = await open(stating(remote(), sha256(large)));
    expect(same(await source.read(0, 1000), large.subarray(0, 1000))).toBe(false);
    expect(await failure(source.read(0, large.length))).toBe("file-corrupt/cache-corrupt");
    expect(same(await readAll(await open(stating(remote(), sha256(large)))), large)).toBe(true);
  });

  it("is downloaded with little memory", async () => {
    const before = process.memoryUsage().arrayBuffers;
    let most = 0;
    const source = await open(remote(), {
      onProgress: () => {
        most = Math.max(most, process.memoryUsage().arrayBuffers - before);
      },
    });
    await source.read(0, 33 * mebibyte).catch(() => undefined);
    await source.close?.();
    // Pieces in flight, each with its copy on the way to the store, and the server's own in this process.
    expect(most).toBeLessThan(33 * mebibyte + 120 * mebibyte);
  });
});
