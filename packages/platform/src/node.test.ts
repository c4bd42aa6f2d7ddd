import { mkdir, mkdtemp, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { LowbitError } from "@lowbit/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fileSource, platform } from "./node.ts";

/** (module) with no sections */
const emptyModule = Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0);
let folder = "";
let model = "";

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowbit-platform-"));
  model = join(folder, "model-00001-of-00002.gguf");
  await writeFile(
    model,
    Uint8Array.from({ length: 1000 }, (_, i) => i % 251),
  );
  await writeFile(join(folder, "model-00002-of-00002.gguf"), "second");
  await writeFile(join(folder, "kernel.wasm"), emptyModule);
  await mkdir(join(folder, "inner"));
  await symlink(model, join(folder, "link.gguf"));
});
afterAll(() => rm(folder, { recursive: true }));

describe("files", () => {
  it("opens a file with its siblings, by path and by URL", async () => {
    for (const location of [model, pathToFileURL(model), pathToFileURL(model).href]) {
      const files = await platform().files(location);
      expect(files.entry).toBe("model-00001-of-00002.gguf");
      expect([...(await files.list())].sort()).toEqual([
        "kernel.wasm",
        "link.gguf",
        "model-00001-of-00002.gguf",
        "model-00002-of-00002.gguf",
      ]);
      const sibling = await files.open("model-00002-of-00002.gguf");
      expect(new TextDecoder().decode(await sibling.read(0, 6))).toBe("second");
      await sibling.close?.();
    }
  });

  it("opens a folder, and files behind links", async () => {
    const files = await platform().files(folder);
    expect(files.entry).toBeUndefined();
    const source = await files.open("link.gguf");
    expect([source.size, (await source.read(250, 2))[1]]).toEqual([1000, 0]);
    await source.close?.();
  });

  it("reads exact ranges, at the same time too, and refuses others", async () => {
    const source = await fileSource(model);
    const reads = [0, 1, 500, 990].map((offset) => source.read(offset, 10));
    for (const [i, bytes] of (await Promise.all(reads)).entries()) {
      expect(bytes[0]).toBe([0, 1, 500, 990][i]! % 251);
      expect(bytes.constructor).toBe(Uint8Array);
      expect(bytes.buffer.byteLength).toBe(10);
    }
    expect((await source.read(1000, 0)).length).toBe(0);
    for (const [offset, length] of [
      [0, 1001],
      [1001, 0],
      [-1, 2],
      [0.5, 1],
      [0, 2 ** 60],
    ] as const) {
      await expect(source.read(offset, length)).rejects.toMatchObject({
        code: "file-corrupt",
        reason: "truncated",
      });
    }
    await source.close?.();
    await source.close?.();
    await expect(source.read(0, 1)).rejects.toMatchObject({ reason: "closed" });
  });

  it("notices a file that shrank", async () => {
    const path = join(folder, "shrinking");
    await writeFile(path, new Uint8Array(100));
    const source = await fileSource(path);
    await truncate(path, 50);
    await expect(source.read(0, 100)).rejects.toMatchObject({ code: "file-corrupt", reason: "truncated" });
    await source.close?.();
    await rm(path);
  });

  it("refuses names that lead out of the folder", async () => {
    const files = await platform().files(model);
    for (const name of ["../etc/passwd", "..", ".", "", "a/b", "a\\b", "/etc/passwd", "a\0.gguf"]) {
      await expect(files.open(name)).rejects.toMatchObject({ code: "bad-argument", reason: "file-name" });
    }
  });

  it("says what is not there", async () => {
    await expect(platform().files(join(folder, "none.gguf"))).rejects.toMatchObject({
      code: "not-found",
      reason: "missing-file",
    });
    const files = await platform().files(folder);
    await expect(files.open("none.gguf")).rejects.toMatchObject({
      code: "not-found",
      reason: "missing-file",
    });
    await expect(files.open("inner")).rejects.toMatchObject({ code: "not-found", reason: "not-a-file" });
    await expect(platform().files("/dev/null")).rejects.toMatchObject({
      code: "not-found",
      reason: "not-a-file",
    });
    await expect(platform().files("ftp://host/model.gguf")).rejects.toMatchObject({
      code: "bad-argument",
      reason: "scheme",
    });
    await expect(platform().files("http://")).rejects.toMatchObject({ code: "bad-argument", reason: "url" });
    await expect(platform().files(model, AbortSignal.abort())).rejects.toMatchObject({ code: "aborted" });
  });
});

describe("platform", () => {
  it("compiles modules from files", async () => {
    const module = await platform().wasm(pathToFileURL(join(folder, "kernel.wasm")));
    expect(WebAssembly.Module.exports(module)).toEqual([]);
  });

  it("yields a turn in which timers and messages run", async () => {
    let ran = false;
    setImmediate(() => {
      ran = true;
    });
    await platform().yield();
    expect(ran).toBe(true);
  });

  it("takes the machine's memory as limit unless told otherwise", () => {
    expect(platform().memoryLimitBytes).toBeGreaterThan(2 ** 28);
    expect(platform({ memoryLimitBytes: 5 }).memoryLimitBytes).toBe(5);
    expect(platform().name).toBe("node");
    expect(LowbitError.is(new LowbitError("internal", ""))).toBe(true);
  });
});
