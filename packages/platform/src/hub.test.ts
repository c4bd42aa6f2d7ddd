import { createHash } from "node:crypto";
import { downloadFile, listFiles } from "@huggingface/hub";
import { LowbitError } from "@lowbit/core";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { commitOf, type FakeHub, fakeHub } from "../test/fake-hub.ts";
import { noise } from "../test/fault-server.ts";
import { memoryStore } from "../test/memory-store.ts";
import { cacheEntries } from "./cache-store.ts";
import { cached } from "./cached.ts";
import { hubFiles, parseHubLocation } from "./hub.ts";
import { platform as nodePlatform } from "./node.ts";
import { platform as webPlatform } from "./web.ts";

const weights = noise(5000);
const config = new TextEncoder().encode('{"model_type":"llama"}');
let hub: FakeHub;
beforeAll(async () => {
  hub = await fakeHub();
});
afterAll(() => hub.close());
beforeEach(() => {
  Object.assign(hub, { commit: commitOf(1), token: undefined, pageSize: 1000, foreignPages: false });
  hub.log.length = 0;
  hub.files.clear();
  hub.files.set("config.json", config);
  hub.files.set("model.safetensors", weights);
  hub.files.set("gguf/pico Q8_0.gguf", noise(3000, 2));
});

const files = (location: string, options = {}) =>
  hubFiles(location, { endpoint: hub.endpoint, retryDelayMs: 1, ...options });

async function failure(promise: Promise<unknown>): Promise<{ code: string; reason: string | undefined }> {
  try {
    await promise;
  } catch (error) {
    if (LowbitError.is(error)) return { code: error.code, reason: error.reason };
    throw error;
  }
  return { code: "none", reason: undefined };
}

describe("hubFiles", () => {
  it("opens a repository as a folder, at one commit", async () => {
    const repository = files("hf:someone/pico");
    expect([repository.name, repository.entry]).toEqual(["hf:someone/pico", undefined]);
    expect(await repository.list()).toEqual(["config.json", "model.safetensors"]);
    const source = await repository.open("model.safetensors");
    expect(source).toMatchObject({
      name: "hf:someone/pico/model.safetensors",
      size: 5000,
      sha256: createHash("sha256").update(weights).digest("hex"),
    });
    expect(await source.read(4000, 1000)).toEqual(weights.subarray(4000));
    const small = await repository.open("config.json");
    expect(small.sha256).toBeUndefined();
    expect(await small.read(0, small.size)).toEqual(config);
    expect(hub.log.map(({ host, url }) => `${host} ${url.slice(0, 60)}`)).toEqual([
      "hub /api/models/someone/pico/revision/main",
      `hub /api/models/someone/pico/tree/${commitOf(1)}`.slice(0, 64),
      `hub /someone/pico/resolve/${commitOf(1)}/model.safetensors`.slice(0, 64),
      `storage /${source.sha256}`.slice(0, 68),
      `storage /${source.sha256}`.slice(0, 68),
      `hub /someone/pico/resolve/${commitOf(1)}/config.json`.slice(0, 64),
      `hub /someone/pico/resolve/${commitOf(1)}/config.json`.slice(0, 64),
    ]);
    // Another commit meanwhile is not seen.
    hub.commit = commitOf(2);
    expect(await failure(repository.open("config.json"))).toMatchObject({ reason: "http-404" });
  });

  it("sees what the hub's own client sees", async () => {
    hub.pageSize = 1;
    const listed: string[] = [];
    for await (const { path, type } of listFiles({ repo: "someone/pico", hubUrl: hub.endpoint }))
      if (type === "file") listed.push(path);
    expect(await files("hf:someone/pico").list()).toEqual(listed);
    const blob = await downloadFile({
      repo: "someone/pico",
      path: "model.safetensors",
      hubUrl: hub.endpoint,
    });
    const source = await files("hf:someone/pico").open("model.safetensors");
    expect(await source.read(0, source.size)).toEqual(new Uint8Array((await blob?.arrayBuffer()) ?? []));
  });

  it("opens files in folders, and revisions", async () => {
    const one = files("hf:someone/pico@refs%2Fpr%2F1/gguf/pico Q8_0.gguf");
    expect([one.name, one.entry]).toEqual([
      "hf:someone/pico@refs/pr/1/gguf/pico Q8_0.gguf",
      "pico Q8_0.gguf",
    ]);
    expect((await one.open("pico Q8_0.gguf")).size).toBe(3000);
    expect(await files("hf:someone/pico/gguf").list()).toEqual(["pico Q8_0.gguf"]);
    expect(await failure(files("hf:someone/pico@gone").list())).toMatchObject({ reason: "http-404" });
    expect(await failure(files("hf:someone/else").list())).toMatchObject({ reason: "http-404" });
    expect(await failure(one.open("other.gguf"))).toEqual({ code: "not-found", reason: "missing-file" });
    expect(await failure(one.open("../x"))).toMatchObject({ reason: "file-name" });
  });

  it("shows its token to the hub alone", async () => {
    hub.token = "hf_secret";
    expect(await failure(files("hf:someone/pico").list())).toMatchObject({ reason: "http-401" });
    hub.log.length = 0;
    const source = await files("hf:someone/pico", { token: "hf_secret" }).open("model.safetensors");
    await source.read(0, 100);
    for (const { host, authorization } of hub.log)
      expect([host, authorization]).toEqual([host, host === "hub" ? "Bearer hf_secret" : undefined]);
    hub.pageSize = 1;
    hub.foreignPages = true;
    expect(await failure(files("hf:someone/pico", { token: "hf_secret" }).list())).toEqual({
      code: "file-corrupt",
      reason: "hub-answer",
    });
    expect(hub.log.filter(({ url }) => url === "/steal")).toEqual([]);
  });

  it("notices that the file is not the one that was listed", async () => {
    const repository = files("hf:someone/pico");
    await repository.list();
    hub.files.set("model.safetensors", noise(4999, 3));
    expect(await failure(repository.open("model.safetensors"))).toMatchObject({ reason: "changed" });
  });

  it("keeps what it loads, held against the hub's hash, and needs the hub no more", async () => {
    const store = memoryStore();
    const source = await cached(files("hf:someone/pico"), store).open("model.safetensors");
    expect(await source.read(0, 5000)).toEqual(weights);
    expect((await cacheEntries(store))[0]).toMatchObject({ complete: true, sha256: source.sha256 });
    // A new commit with the same bytes fetches nothing again.
    hub.commit = commitOf(2);
    hub.log.length = 0;
    await (await cached(files("hf:someone/pico"), store).open("model.safetensors")).read(0, 5000);
    expect(hub.log.filter(({ host }) => host === "storage").length).toBe(1);
    const offline = (): Promise<Response> => Promise.reject(new TypeError("no network"));
    const alone = cached(files("hf:someone/pico", { fetch: offline }), store);
    expect(await alone.list()).toEqual(["model.safetensors"]);
    expect(await (await alone.open("model.safetensors")).read(0, 5000)).toEqual(weights);
    expect(await failure(alone.open("config.json"))).toEqual({ code: "not-found", reason: "network" });
  });

  it("refuses answers that make no sense", async () => {
    const answers: [unknown, string][] = [
      [{ sha: "main" }, "hub-answer"],
      ["<html>", "invalid-json"],
      [{ sha: commitOf(1) }, "hub-answer"],
    ];
    for (const [value, reason] of answers) {
      const fake = (): Promise<Response> =>
        Promise.resolve(new Response(typeof value === "string" ? value : JSON.stringify(value)));
      expect(await failure(files("hf:a/b", { fetch: fake }).list())).toEqual({
        code: "file-corrupt",
        reason,
      });
    }
  });

  it("is known to every platform", async () => {
    for (const platform of [nodePlatform, webPlatform]) {
      const found = await platform({ hub: { endpoint: hub.endpoint } }).files("hf:someone/pico");
      expect(await found.list()).toEqual(["config.json", "model.safetensors"]);
    }
  });
});

describe("parseHubLocation", () => {
  it("takes locations apart", () => {
    expect(parseHubLocation("hf:a/b")).toEqual({
      repository: "a/b",
      revision: "main",
      folder: "",
      entry: undefined,
    });
    expect(parseHubLocation("hf://a/b.c@v1.0/x/y-00001-of-00002.gguf")).toEqual({
      repository: "a/b.c",
      revision: "v1.0",
      folder: "x/",
      entry: "y-00001-of-00002.gguf",
    });
    expect(parseHubLocation("hf:a/b/v1.0/")).toMatchObject({ folder: "v1.0/", entry: undefined });
    expect(parseHubLocation("hf:a/b/")).toMatchObject({ folder: "", entry: undefined });
  });

  it("refuses what is none", () => {
    for (const text of [
      "hf:",
      "hf:a",
      "hf:a/b/../c",
      "hf:a/..",
      "hf:a/b/x//y",
      "hf:a/b@",
      "hf:a/b/%2e%2e/x",
      "hf:a/b/x%3Fy.gguf",
    ])
      expect(() => parseHubLocation(text), text).toThrow(expect.objectContaining({ reason: "location" }));
    expect(() => hubFiles("hf:a/b", { endpoint: "ftp://x" })).toThrow(
      expect.objectContaining({ reason: "endpoint" }),
    );
  });
});
