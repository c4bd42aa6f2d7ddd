import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { OutputPlace, WritableFolder } from "@lowbit/core";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { outputPlace, writableFolder } from "./node.ts";
import { outputPlace as webOutputPlace } from "./web.ts";

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowbit-output-"));
});
afterEach(() => rm(folder, { recursive: true }));

const bytes = (text: string) => new TextEncoder().encode(text);
const read = (...path: string[]) => readFileSync(join(folder, ...path), "utf8");

async function put(target: Pick<WritableFolder, "create">, file: string, text: string): Promise<void> {
  const sink = await target.create(file);
  await sink.write(bytes(text));
  await sink.close();
}

async function finish(place: OutputPlace, files: Record<string, string>, file?: string): Promise<void> {
  const result = await place.begin();
  for (const [name, text] of Object.entries(files)) await put(result, name, text);
  await place.publish(file);
}

describe("a writable folder", () => {
  it("creates, appends, lists, reads and removes", async () => {
    const target = await writableFolder(join(folder, "a", "b"));
    const sink = await target.create("one");
    for (const piece of ["ab", "", "cd"]) await sink.write(bytes(piece));
    await sink.close();
    await target.append("two", bytes("x"));
    await target.append("two", bytes("yz"));
    expect([...(await target.list())].sort()).toEqual(["one", "two"]);
    expect([read("a", "b", "one"), read("a", "b", "two")]).toEqual(["abcd", "xyz"]);
    const source = await target.open("two");
    expect(new TextDecoder().decode(await source.read(1, 2))).toBe("yz");
    await source.close?.();
    await put(target, "one", "new");
    expect(read("a", "b", "one")).toBe("new");
    await target.remove("one");
    expect(await target.list()).toEqual(["two"]);
    await expect(target.remove("one")).rejects.toMatchObject({ code: "not-found", reason: "missing-file" });
  });

  it("refuses names that lead out of it", async () => {
    const target = await writableFolder(folder);
    for (const name of ["../x", "..", "a/b", "/x", ""]) {
      const refusals = [target.create(name), target.append(name, bytes("x")), target.remove(name)];
      for (const { status } of await Promise.allSettled(refusals)) expect(status).toBe("rejected");
    }
    expect(readdirSync(folder)).toEqual([]);
  });

  it("says where it cannot write", async () => {
    await writeFile(join(folder, "file"), "");
    await expect(writableFolder(join(folder, "file"))).rejects.toMatchObject({ reason: "not-a-folder" });
    await expect(writableFolder(join(folder, "file", "below"))).rejects.toMatchObject({
      reason: "not-a-folder",
    });
    await mkdir(join(folder, "inner"));
    await expect((await writableFolder(folder)).create("inner")).rejects.toMatchObject({
      reason: "not-a-file",
    });
  });

  it.runIf(existsSync("/dev/full"))("tells a full disk (skipped: where there is no /dev/full)", async () => {
    await symlink("/dev/full", join(folder, "full"));
    const sink = await (await writableFolder(folder)).create("full");
    await expect(sink.write(bytes("x"))).rejects.toMatchObject({
      code: "out-of-memory",
      reason: "disk-full",
    });
    await sink.close().catch(() => undefined);
  });
});

describe("an output place", () => {
  it("shows a folder, or one file of it, only when it is published", async () => {
    for (const [name, file] of [
      ["model", undefined],
      ["model.gguf", "made.gguf"],
    ] as const) {
      const place = await outputPlace(join(folder, name));
      await place.staging.append("journal", bytes("line"));
      const result = await place.begin();
      await put(result, "made.gguf", "first");
      expect(readdirSync(folder)).toEqual([`${name}.partial`]);
      await place.publish(file);
      expect(readdirSync(folder)).toEqual([name]);
      expect(file ? read(name) : read(name, "made.gguf")).toBe("first");
      await place.close();
      expect(readdirSync(folder)).toEqual([name]);
      await rm(join(folder, name), { recursive: true });
    }
  });

  it("keeps what was staged for the next run, and begins the result anew", async () => {
    const path = pathToFileURL(join(folder, "model"));
    const first = await outputPlace(path);
    await first.staging.append("journal", bytes("one"));
    await put(await first.begin(), "half", "x");
    await first.close();
    const second = await outputPlace(path);
    await second.staging.append("journal", bytes("two"));
    expect(read("model.partial", "state", "journal")).toBe("onetwo");
    await finish(second, { whole: "y" });
    expect(readdirSync(join(folder, "model"))).toEqual(["whole"]);
    const third = await outputPlace(path, { overwrite: true }).catch((error) => error);
    expect(third).toMatchObject({ reason: "not-a-model" });
  });

  it("leaves nothing if nothing was staged, or if it is discarded", async () => {
    await (await outputPlace(join(folder, "a"))).close();
    const place = await outputPlace(join(folder, "b"));
    await place.staging.append("journal", bytes("one"));
    await place.discard();
    await place.close();
    expect(readdirSync(folder)).toEqual([]);
  });

  it("replaces a file or a model's folder only when allowed", async () => {
    const model = join(folder, "model");
    await mkdir(model);
    await writeFile(join(model, "config.json"), "old");
    await writeFile(join(folder, "file"), "old");
    for (const path of [model, join(folder, "file")]) {
      await expect(outputPlace(path)).rejects.toMatchObject({ code: "bad-argument", reason: "exists" });
    }
    await finish(await outputPlace(model, { overwrite: true }), { "config.json": "new" });
    await finish(await outputPlace(join(folder, "file"), { overwrite: true }), { x: "new" }, "x");
    expect([read("model", "config.json"), read("file")]).toEqual(["new", "new"]);
    // One kind takes the other's place.
    await finish(await outputPlace(model, { overwrite: true }), { x: "a file" }, "x");
    await finish(await outputPlace(join(folder, "file"), { overwrite: true }), { "config.json": "a folder" });
    expect([read("model"), read("file", "config.json")]).toEqual(["a file", "a folder"]);
    expect(readdirSync(folder).sort()).toEqual(["file", "model"]);
  });

  it("never replaces a folder that holds anything else", async () => {
    await mkdir(join(folder, "home", "photos"), { recursive: true });
    await mkdir(join(folder, "texts"));
    await mkdir(join(folder, "mixed", "inner"), { recursive: true });
    await writeFile(join(folder, "home", "config.json"), "{}");
    await writeFile(join(folder, "texts", "letter.txt"), "");
    await writeFile(join(folder, "mixed", "model.safetensors"), "");
    for (const name of ["home", "texts", "mixed"]) {
      const refused = outputPlace(join(folder, name), { overwrite: true });
      await expect(refused).rejects.toMatchObject({ code: "bad-argument", reason: "not-a-model" });
    }
    expect(readdirSync(folder).sort()).toEqual(["home", "mixed", "texts"]);
  });

  it("never replaces what is being read", async () => {
    await mkdir(join(folder, "model"));
    await writeFile(join(folder, "model", "model.safetensors"), "");
    await symlink(join(folder, "model"), join(folder, "link"));
    const cases = [
      ["model", "model"],
      ["model", "link"],
      ["model", "model/model.safetensors"],
      ["model/model.safetensors", "model/model.safetensors"],
    ] as const;
    for (const [path, from] of cases) {
      for (const source of [
        join(folder, from),
        pathToFileURL(join(folder, from)),
        pathToFileURL(join(folder, from)).href,
      ]) {
        const refused = outputPlace(join(folder, path), { overwrite: true, source });
        await expect(refused).rejects.toMatchObject({ code: "bad-argument", reason: "own-source" });
      }
    }
    // Beside or below the source is fine, and so is a source elsewhere.
    await (await outputPlace(join(folder, "model", "out"), { source: join(folder, "model") })).close();
    await (await outputPlace(join(folder, "other"), { source: "https://host/model.gguf" })).close();
  });

  it("does not replace what appeared meanwhile", async () => {
    const place = await outputPlace(join(folder, "model"));
    const result = await place.begin();
    await put(result, "x", "mine");
    await writeFile(join(folder, "model"), "another's");
    await expect(place.publish()).rejects.toMatchObject({ reason: "exists" });
    expect(read("model")).toBe("another's");
    await rm(join(folder, "model"));
    await place.publish();
    expect(read("model", "x")).toBe("mine");
  });

  it("puts a replaced folder back if the run ended in between", async () => {
    const model = join(folder, "model");
    await mkdir(model);
    await writeFile(join(model, "config.json"), "old");
    const place = await outputPlace(model, { overwrite: true });
    await place.staging.append("journal", bytes("x"));
    await rename(model, join(folder, "model.partial", "replaced")); // as publish does first
    await place.close();
    await expect(outputPlace(model)).rejects.toMatchObject({ reason: "exists" });
    expect(read("model", "config.json")).toBe("old");
  });
});

describe("the lock", () => {
  it("lets one run in at a time, of this process or another", async () => {
    const path = join(folder, "model");
    const place = await outputPlace(path);
    await expect(outputPlace(path)).rejects.toMatchObject({ code: "bad-argument", reason: "in-use" });
    await place.close();
    const other = spawn(process.execPath, ["-e", "console.log('up'); setInterval(() => {}, 1000)"]);
    await once(other.stdout, "data");
    await mkdir(join(folder, "model.partial"), { recursive: true });
    const lock = join(folder, "model.partial", "lock");
    await writeFile(lock, JSON.stringify({ pid: other.pid, instance: "other" }));
    await expect(outputPlace(path)).rejects.toMatchObject({ reason: "in-use" });
    other.kill("SIGKILL");
    await once(other, "exit");
    await (await outputPlace(path)).close();
    expect(readdirSync(folder)).toEqual([]);
  });

  it("is not kept by a torn one, or by an earlier process of the same number", async () => {
    for (const text of [
      "",
      '{"pid":',
      '{"pid":-1}',
      JSON.stringify({ pid: process.pid, instance: "earlier" }),
    ]) {
      await mkdir(join(folder, "model.partial"), { recursive: true });
      await writeFile(join(folder, "model.partial", "lock"), text);
      await (await outputPlace(join(folder, "model"))).close();
    }
  });
});

it("is refused where there are no paths", async () => {
  await expect(webOutputPlace("model")).rejects.toMatchObject({
    code: "bad-argument",
    reason: "no-file-system",
  });
});
