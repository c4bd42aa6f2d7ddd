import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { platform as nodePlatform } from "./node.ts";
import { remoteFiles } from "./remote.ts";
import { platform as webPlatform } from "./web.ts";

const data = Uint8Array.from({ length: 5000 }, (_, i) => (i * 7) % 256);
let server: Server;
let base = "";
let log: string[] = [];
let failures = 0;
let etag = '"one"';

function answer(request: IncomingMessage, response: ServerResponse): void {
  const { pathname, search } = new URL(request.url ?? "/", base);
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
  log.push(`${pathname}${search} ${request.headers.range ?? "-"}`);
  if (pathname.endsWith("/missing.gguf")) return void response.writeHead(404).end();
  if (pathname.endsWith("/secret.gguf")) return void response.writeHead(403).end();
  if (pathname.endsWith("/flaky.gguf") && failures-- > 0) return void response.writeHead(503).end();
  if (pathname.endsWith("/empty.gguf"))
    return void response.writeHead(416, { "content-range": "bytes */0" }).end();
  if (pathname.endsWith("/plain.gguf"))
    return void response.writeHead(200, { "content-length": data.length }).end(data);
  if (pathname.endsWith("/endless.gguf")) {
    response.writeHead(200);
    const timer = setInterval(() => response.write(data), 1);
    response.on("close", () => clearInterval(timer));
    return;
  }
  if (pathname.endsWith("/module.wasm")) {
    const type = search === "?type" ? "application/wasm" : "application/octet-stream";
    return void response
      .writeHead(200, { "content-type": type })
      .end(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
  }
  const [from, to] = [Number(range?.[1]), Math.min(Number(range?.[2]), data.length - 1)];
  const headers = { "content-range": `bytes ${from}-${to}/${data.length}`, etag };
  response.writeHead(206, headers);
  const body = data.subarray(from, to + 1);
  if (pathname.endsWith("/breaking.gguf") && to > from && failures-- > 0) {
    response.write(body.subarray(0, 1), () => response.destroy());
  } else if (pathname.endsWith("/slow.gguf") && to > from) setTimeout(() => response.end(body), 5000).unref();
  else response.end(body);
}

beforeAll(async () => {
  server = createServer(answer).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
beforeEach(() => {
  log = [];
  failures = 0;
  etag = '"one"';
});

const open = async (path: string, options = {}, signal?: AbortSignal) => {
  const files = remoteFiles(new URL(path, base), { retryDelayMs: 1, ...options });
  return files.open(files.entry ?? "", signal);
};

describe("with Range", () => {
  it("fetches one byte to open and then only what is read", async () => {
    const source = await open("/m/model.gguf");
    expect(source.size).toBe(5000);
    expect(await source.read(100, 50)).toEqual(data.subarray(100, 150));
    expect(await source.read(5000, 0)).toEqual(new Uint8Array(0));
    await expect(source.read(4990, 11)).rejects.toMatchObject({ reason: "truncated" });
    expect(log).toEqual(["/m/model.gguf bytes=0-0", "/m/model.gguf bytes=100-149"]);
  });

  it("finds siblings beside the file, with the same query, and nothing elsewhere", async () => {
    const files = remoteFiles(new URL("/m/a%20b.gguf?token=x", base));
    expect([files.entry, files.name]).toEqual(["a b.gguf", `${base}/m/a%20b.gguf`]);
    expect(await files.list()).toEqual(["a b.gguf"]);
    await files.open("c d?.gguf");
    expect(log).toEqual(["/m/c%20d%3F.gguf?token=x bytes=0-0"]);
    await expect(files.open("../../x")).rejects.toMatchObject({ reason: "file-name" });
    expect(() => remoteFiles(new URL("/m/", base))).toThrow(/is a folder/);
  });

  it("notices a file that changed", async () => {
    const source = await open("/m/model.gguf");
    etag = '"two"';
    await expect(source.read(0, 5)).rejects.toMatchObject({ code: "file-corrupt", reason: "changed" });
  });

  it("tries again when the server or the connection fails, but not for ever", async () => {
    failures = 2;
    expect((await open("/m/flaky.gguf")).size).toBe(5000);
    failures = 9;
    await expect(open("/m/flaky.gguf")).rejects.toMatchObject({ code: "not-found", reason: "http-503" });
    failures = 1;
    const source = await open("/m/breaking.gguf");
    expect(await source.read(0, 3000)).toEqual(data.subarray(0, 3000));
    failures = 9;
    await expect(source.read(0, 3000)).rejects.toMatchObject({ code: "file-corrupt", reason: "interrupted" });
  });

  it("aborts requests in flight, by signal and by close", async () => {
    const source = await open("/m/slow.gguf");
    const controller = new AbortController();
    const aborted = source.read(0, 100, controller.signal);
    const closed = source.read(0, 100);
    setTimeout(() => controller.abort(), 20);
    await expect(aborted).rejects.toMatchObject({ code: "aborted" });
    await source.close?.();
    await expect(closed).rejects.toMatchObject({ reason: "closed" });
    await expect(source.read(0, 1)).rejects.toMatchObject({ reason: "closed" });
    await expect(open("/m/model.gguf", {}, AbortSignal.abort())).rejects.toMatchObject({ code: "aborted" });
  });
});

describe("without Range", () => {
  it("fetches the file whole, once", async () => {
    const source = await open("/m/plain.gguf");
    expect(await source.read(4000, 1000)).toEqual(data.subarray(4000));
    expect(await source.read(0, 10)).toEqual(data.subarray(0, 10));
    // Requests that the test before has aborted may still arrive.
    expect(log.filter((line) => line.includes("plain"))).toEqual(["/m/plain.gguf bytes=0-0"]);
  });

  it("refuses more than the limit, announced or not", async () => {
    const limit = { maxStreamedBytes: 4999 };
    const refusal = { code: "out-of-memory", reason: "range-unsupported" };
    const plain = await open("/m/plain.gguf", limit);
    await expect(plain.read(0, 1)).rejects.toMatchObject({
      ...refusal,
      message: expect.stringMatching(/has 5000 bytes, more than the 4999 bytes/),
    });
    await expect(open("/m/endless.gguf", { maxStreamedBytes: 100_000 })).rejects.toMatchObject(refusal);
  });

  it("knows an empty file", async () => {
    expect((await open("/m/empty.gguf")).size).toBe(0);
  });
});

describe("errors", () => {
  it("name the status or the network's trouble, without the query", async () => {
    await expect(open("/m/missing.gguf?sig=abc")).rejects.toMatchObject({
      code: "not-found",
      reason: "http-404",
      message: expect.not.stringContaining("abc"),
    });
    await expect(open("/m/secret.gguf")).rejects.toMatchObject({
      reason: "http-403",
      hint: expect.stringContaining("rights"),
    });
    const nowhere = remoteFiles(new URL("http://127.0.0.1:1/model.gguf"), { retryDelayMs: 1 });
    await expect(nowhere.open("model.gguf")).rejects.toMatchObject({ code: "not-found", reason: "network" });
  });
});

describe("platforms", () => {
  it("load from URLs", async () => {
    for (const platform of [nodePlatform(), webPlatform()]) {
      const files = await platform.files(`${base}/m/model.gguf`);
      const source = await files.open("model.gguf");
      expect(await source.read(7, 7)).toEqual(data.subarray(7, 14));
      await source.close?.();
      for (const query of ["?type", ""]) {
        const module = await platform.wasm(new URL(`/module.wasm${query}`, base));
        expect(WebAssembly.Module.imports(module)).toEqual([]);
      }
      await expect(platform.wasm(new URL("/missing.gguf", base))).rejects.toMatchObject({
        reason: "http-404",
      });
    }
  });

  it("on the web: blob and data URLs, no paths", async () => {
    const url = URL.createObjectURL(new Blob([data]));
    const files = await webPlatform().files(url);
    const source = await files.open(files.entry ?? "");
    expect(await source.read(10, 5)).toEqual(data.subarray(10, 15));
    await expect(files.open("other")).rejects.toMatchObject({ code: "not-found", reason: "missing-file" });
    URL.revokeObjectURL(url);
    const inline = await webPlatform().files("data:application/octet-stream;base64,AAEC");
    expect([...(await (await inline.open("model")).read(0, 3))]).toEqual([0, 1, 2]);
    for (const location of ["./model.gguf", "file:///m.gguf", "/m.gguf"]) {
      await expect(webPlatform().files(location)).rejects.toMatchObject({
        code: "bad-argument",
        reason: "scheme",
      });
    }
    let ran = false;
    setTimeout(() => {
      ran = true;
    }, 0);
    for (let i = 0; i < 50 && !ran; i++) await webPlatform().yield();
    expect(ran).toBe(true);
    expect(webPlatform().memoryLimitBytes).toBeGreaterThan(2 ** 20);
  });
});
