import { type FileSet, LowbitError, memorySource, type WritableFolder } from "@lowbit/core";
import { describe, expect, it } from "vitest";
import { noise } from "../test/fault-server.ts";
import { type MemoryFolder, memoryFolder } from "../test/memory-folder.ts";
import { directoryFiles } from "./directory.ts";
import { platform as edgePlatform } from "./edge-light.ts";
import { cached, cacheEntries, opfsCache, removeFromCache } from "./node.ts";
import { type AssetFetcher, assetFiles, kvFiles, manifestFiles, writePieces } from "./pieced-files.ts";
import { type R2Reader, r2Files } from "./r2.ts";
import { platform as webPlatform } from "./web.ts";
import { platform as workerPlatform } from "./workerd.ts";

const weights = noise(100_000);
const config = new TextEncoder().encode("{}");

function fileSet(files: Record<string, Uint8Array>, entry?: string): FileSet {
  return {
    name: "test",
    entry,
    list: () => Promise.resolve(Object.keys(files)),
    open: (file) => Promise.resolve(memorySource(files[file] ?? new Uint8Array(0), file)),
  };
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

/** Objects as `writePieces` makes them. */
async function pieces(pieceBytes = 30_000, files = { "model.gguf": weights, "config.json": config }) {
  const objects = new Map<string, Uint8Array>();
  const target: Pick<WritableFolder, "create"> = {
    create(name) {
      const parts: Uint8Array[] = [];
      return Promise.resolve({
        write(bytes) {
          parts.push(bytes.slice());
          return Promise.resolve();
        },
        close() {
          objects.set(name, new Uint8Array(Buffer.concat(parts)));
          return Promise.resolve();
        },
      });
    },
  };
  await writePieces(fileSet(files), target, { pieceBytes });
  return objects;
}

const bodyOf = (bytes: Uint8Array): Uint8Array<ArrayBuffer> => Uint8Array.from(bytes);

describe("files in pieces", () => {
  it("are written and read back, from KV, assets and URLs", async () => {
    const objects = await pieces();
    expect([...objects.keys()]).toEqual([
      ...["0000", "0001", "0002", "0003"].map((index) => `model.gguf.${index}`),
      "config.json.0000",
      "lowbit-files.json",
    ]);
    const serve = (url: string): Promise<Response> => {
      const found = objects.get(decodeURIComponent(new URL(url).pathname.split("/").at(-1) ?? ""));
      return Promise.resolve(
        found === undefined ? new Response("", { status: 404 }) : new Response(bodyOf(found)),
      );
    };
    const sets: FileSet[] = [
      kvFiles(
        { get: (key) => Promise.resolve(bodyOf(objects.get(key.slice(5)) ?? new Uint8Array(0)).buffer) },
        "pico/",
      ),
      assetFiles({ fetch: (input) => serve(input) } satisfies AssetFetcher, "/models/pico"),
      manifestFiles(new URL("https://host/m/lowbit-files.json?v=1"), {
        fetch: (input) => serve(String(input)),
      }),
      await webPlatform({ fetch: (input) => serve(String(input)) }).files("https://host/m/lowbit-files.json"),
    ];
    for (const files of sets) {
      expect([files.entry, await files.list()]).toEqual([undefined, ["model.gguf", "config.json"]]);
      const source = await files.open("model.gguf");
      expect(source.size).toBe(100_000);
      for (const [offset, length] of [
        [0, 100_000],
        [29_999, 2],
        [99_999, 1],
        [50, 0],
      ] as const)
        expect(await source.read(offset, length)).toEqual(weights.subarray(offset, offset + length));
      expect(await failure(source.read(99_999, 2))).toBe("file-corrupt/truncated");
      expect(await failure(files.open("other"))).toBe("not-found/missing-file");
    }
  });

  it("are got once while they are read in order", async () => {
    const objects = await pieces();
    const got: string[] = [];
    const files = kvFiles({
      get(key) {
        got.push(key);
        return Promise.resolve(bodyOf(objects.get(key) as Uint8Array).buffer);
      },
    });
    const source = await files.open("model.gguf");
    for (let offset = 0; offset < 100_000; offset += 500) await source.read(offset, 500);
    expect(got).toEqual(["lowbit-files.json", ...[0, 1, 2, 3].map((i) => `model.gguf.000${i}`)]);
  });

  it("are refused where a byte is not what the manifest says", async () => {
    const objects = await pieces();
    const files = kvFiles({
      get: (key) => Promise.resolve(objects.has(key) ? bodyOf(objects.get(key) as Uint8Array).buffer : null),
    });
    (objects.get("model.gguf.0002") as Uint8Array)[7] =
      1 + ((objects.get("model.gguf.0002") as Uint8Array)[7] as number);
    const source = await files.open("model.gguf");
    expect(await source.read(0, 60_000)).toEqual(weights.subarray(0, 60_000));
    expect(await failure(source.read(0, 100_000))).toBe("file-corrupt/sha256");
    objects.delete("model.gguf.0003");
    const again = await files.open("model.gguf");
    expect(await failure(again.read(95_000, 1))).toBe("not-found/missing-file");
  });

  it("are refused where the manifest is hostile", async () => {
    const objects = await pieces();
    const manifest = JSON.parse(new TextDecoder().decode(objects.get("lowbit-files.json")));
    const spoil = (change: (value: typeof manifest) => void): Promise<string> => {
      const value = structuredClone(manifest);
      change(value);
      const bytes = new TextEncoder().encode(JSON.stringify(value));
      return failure(kvFiles({ get: () => Promise.resolve(bodyOf(bytes).buffer) }).list());
    };
    for (const change of [
      (value: typeof manifest) => (value.version = 2),
      (value: typeof manifest) => (value.pieceBytes = 2 ** 40),
      (value: typeof manifest) => (value.pieceBytes = 0),
      (value: typeof manifest) => (value.files["model.gguf"].size = 2 ** 50),
      (value: typeof manifest) => (value.files["model.gguf"].size = -1),
      (value: typeof manifest) => value.files["model.gguf"].pieces.pop(),
      (value: typeof manifest) => (value.files["model.gguf"].pieces[0] = "x"),
      (value: typeof manifest) => (value.files["model.gguf"].sha256 = 5),
    ])
      expect(await spoil(change)).toBe("file-corrupt/manifest");
    expect(await spoil((value) => (value.files["../x"] = value.files["model.gguf"]))).toBe(
      "bad-argument/file-name",
    );
    expect(await failure(kvFiles({ get: () => Promise.resolve(null) }).list())).toBe(
      "not-found/missing-file",
    );
    expect(await failure(pieces(2 ** 25))).toBe("bad-argument/piece-bytes");
  });

  it("are those of one model, split or not, where a file is named", async () => {
    const objects = new Map<string, true>();
    const target = {
      create(name: string) {
        objects.set(name, true);
        return Promise.resolve({ write: () => Promise.resolve(), close: () => Promise.resolve() });
      },
    };
    const files = { "m-00001-of-00002.gguf": config, "m-00002-of-00002.gguf": config, "n.gguf": config };
    await writePieces(fileSet(files, "m-00001-of-00002.gguf"), target);
    expect([...objects.keys()].map((name) => name.slice(0, 7))).toEqual(["m-00001", "m-00002", "lowbit-"]);
    objects.clear();
    await writePieces(fileSet(files, "n.gguf"), target);
    expect([...objects.keys()]).toEqual(["n.gguf.0000", "lowbit-files.json"]);
  });
});

describe("r2Files", () => {
  function bucket(
    objects: Map<string, Uint8Array>,
  ): R2Reader & { etag: string; failures: number; short: number } {
    return {
      etag: "one",
      failures: 0,
      short: 0,
      head(key) {
        if (this.failures-- > 0) return Promise.reject(new Error("internal error (10001)"));
        const found = objects.get(key);
        return Promise.resolve(found === undefined ? null : { size: found.length, etag: this.etag });
      },
      get(key, { range: { offset, length }, onlyIf }) {
        if (this.failures-- > 0) return Promise.reject(new Error("internal error (10001)"));
        const found = objects.get(key);
        if (found === undefined) return Promise.resolve(null);
        const head = { size: found.length, etag: this.etag };
        if (onlyIf.etagMatches !== this.etag) return Promise.resolve(head);
        const bytes = bodyOf(found.subarray(offset, offset + length - (this.short-- > 0 ? 1 : 0)));
        return Promise.resolve({ ...head, arrayBuffer: () => Promise.resolve(bytes.buffer) });
      },
      list({ prefix, cursor }) {
        const keys = [...objects.keys()].filter(
          (key) => key.startsWith(prefix) && !key.slice(prefix.length).includes("/"),
        );
        const start = Number(cursor ?? 0);
        const truncated = start + 1 < keys.length;
        return Promise.resolve({
          objects: keys.slice(start, start + 1).map((key) => ({ key })),
          truncated,
          ...(truncated && { cursor: String(start + 1) }),
        });
      },
    };
  }
  const objects = new Map([
    ["pico/model.gguf", weights],
    ["pico/config.json", config],
    ["pico/inner/x", config],
    ["top.gguf", config],
  ]);

  it("opens folders and objects, by ranges of one version", async () => {
    const r2 = bucket(objects);
    const folder = r2Files(r2, "pico/");
    expect([folder.entry, await folder.list()]).toEqual([undefined, ["model.gguf", "config.json"]]);
    const one = r2Files(r2, "pico/model.gguf");
    expect(one.entry).toBe("model.gguf");
    const source = await one.open("model.gguf");
    expect([source.size, source.version]).toEqual([100_000, "one"]);
    expect(await source.read(99_000, 1000)).toEqual(weights.subarray(99_000));
    expect(await failure(source.read(99_000, 1001))).toBe("file-corrupt/truncated");
    r2.etag = "two";
    expect(await failure(source.read(0, 10))).toBe("file-corrupt/changed");
    expect(await r2Files(r2).list()).toEqual(["top.gguf"]);
    expect(await failure(one.open("none"))).toBe("not-found/missing-file");
    expect(await failure(one.open("inner/x"))).toBe("bad-argument/file-name");
  });

  it("tries again what fails by itself, and what came short", async () => {
    const r2 = bucket(objects);
    r2.failures = 2;
    const source = await r2Files(r2, "pico/").open("model.gguf");
    r2.short = 1;
    expect(await source.read(0, 10)).toEqual(weights.subarray(0, 10));
    r2.short = 9;
    expect(await failure(source.read(0, 10))).toBe("file-corrupt/interrupted");
    r2.short = 0;
    r2.failures = 9;
    expect(await failure(source.read(0, 10))).toBe("not-found/network");
  });
});

describe("folders of the origin private file system", () => {
  const filled = (): MemoryFolder => {
    const folder = memoryFolder("models");
    folder.files.set("model.gguf", weights);
    folder.files.set("config.json", config);
    folder.folders.set("inner", memoryFolder("inner"));
    return folder;
  };

  it("are sets of files", async () => {
    const files = directoryFiles(filled());
    expect([files.name, files.entry]).toEqual(["opfs:models", undefined]);
    expect(await files.list()).toEqual(["model.gguf", "config.json"]);
    const source = await files.open("model.gguf");
    expect(await source.read(5, 10)).toEqual(weights.subarray(5, 15));
    expect(await failure(files.open("none"))).toBe("not-found/missing-file");
    expect(await failure(files.open("inner"))).toBe("not-found/not-a-file");
    expect(await failure(files.open("../x"))).toBe("bad-argument/file-name");
    expect(directoryFiles(filled(), "model.gguf").entry).toBe("model.gguf");
  });

  it("hold caches", async () => {
    const folder = memoryFolder("cache");
    const store = opfsCache(folder);
    for (let i = 0; i < 2; i++) {
      const source = await cached(directoryFiles(filled()), store).open("model.gguf");
      expect(await source.read(0, 100_000)).toEqual(weights);
    }
    expect((await cacheEntries(store)).map(({ name, complete }) => [name, complete])).toEqual([
      ["opfs:models/model.gguf", true],
    ]);
    folder.quota = 1000;
    expect(await failure(store.put("x", new Uint8Array(2000)))).toBe("out-of-memory/storage-full");
    expect(await store.get("x")).toBeUndefined();
    await removeFromCache(store);
    expect(await store.list()).toEqual([]);
    expect(await failure(opfsCache().list())).toBe("bad-argument/no-storage");
  });
});

describe("isolates", () => {
  it("compile nothing, and say what to do", async () => {
    for (const [platform, name] of [
      [workerPlatform, "workerd"],
      [edgePlatform, "edge-light"],
    ] as const) {
      expect([platform().name, platform().memoryLimitBytes]).toEqual([name, 100 * 2 ** 20]);
      expect(await failure(platform().wasm(new URL("https://host/x.wasm")))).toBe(
        "backend-unavailable/no-compile",
      );
      expect(platform({ memoryLimitBytes: 7 }).memoryLimitBytes).toBe(7);
      expect(await failure(platform().files("./model.gguf"))).toBe("bad-argument/scheme");
    }
    expect(() => webPlatform({ cache: 5 as unknown as boolean })).toThrow(
      /expected true, false or a CacheStore/,
    );
  });
});
