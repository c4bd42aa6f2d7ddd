import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type AssetServer, serveAssets } from "./assets.ts";
import { peakOfTree, peakResidentBytes } from "./memory.ts";

let folder = "";
let server: AssetServer;
const script = "export const text = 'again and again and again';".repeat(50);

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "lowbit-bench-"));
  writeFileSync(join(folder, "a.js"), script);
  writeFileSync(join(folder, "model.gguf"), "0123456789");
  server = await serveAssets({
    html: "<p>page",
    folders: { "/esm/": folder },
    modelPath: join(folder, "model.gguf"),
  });
});
afterAll(() => {
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

it("pages are isolated, models come whole or in ranges", async () => {
  const page = await fetch(server.base);
  expect(await page.text()).toBe("<p>page");
  expect(page.headers.get("cross-origin-embedder-policy")).toBe("require-corp");
  const model = `${server.base}/model.gguf`;
  expect(await (await fetch(model)).text()).toBe("0123456789");
  const part = await fetch(model, { headers: { range: "bytes=2-4" } });
  expect([part.status, await part.text()]).toEqual([206, "234"]);
  const rest = await fetch(model, { headers: { range: "bytes=7-" } });
  expect([rest.headers.get("content-range"), await rest.text()]).toEqual(["bytes 7-9/10", "789"]);
});

it("downloads are scripts and modules, each once, and not the model", async () => {
  expect(server.downloadBytes()).toBe(0);
  for (let i = 0; i < 2; i++) expect(await (await fetch(`${server.base}/esm/a.js`)).text()).toBe(script);
  expect(server.downloadBytes()).toBe(gzipSync(script, { level: 9 }).byteLength);
});

it("a folder tells what it holds", async () => {
  const other = await serveAssets({ html: "", folders: {}, modelPath: folder });
  try {
    const names = (await (await fetch(`${other.base}/model/`)).json()) as string[];
    expect(names.sort()).toEqual(["a.js", "model.gguf"]);
    expect(await (await fetch(`${other.base}/model/a.js`)).text()).toBe(script);
    expect(other.downloadBytes()).toBe(0);
  } finally {
    other.close();
  }
});

it("what is not there is not found", async () => {
  for (const path of ["/esm/b.js", "/other", "/esm/..%2f..%2fetc/passwd"])
    expect((await fetch(`${server.base}${path}`)).status).toBe(404);
});

it.skipIf(process.platform !== "linux")("the largest process of a tree counts", () => {
  const own = peakResidentBytes(process.pid) ?? 0;
  expect(own).toBeGreaterThan(2 ** 24);
  expect(peakOfTree(process.pid)).toBeGreaterThanOrEqual(own);
  expect(peakOfTree(2 ** 30)).toBeUndefined();
});
