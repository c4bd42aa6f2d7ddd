import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { picoGguf } from "@lowbit/pico";
import { writableFolder } from "@lowbit/platform/node";
import { bundleEdge, startEdge } from "@lowbit/testing/edge";
import { type Served, serveFolder } from "@lowbit/testing/serve-folder";
import { developmentProgram } from "@lowbit/testing/serve-process";
import { bundleWorker, workerModules } from "@lowbit/testing/worker";
import { Miniflare } from "miniflare";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Answer, question } from "../test/runtimes/question.ts";
import { rawWorkerd } from "../test/runtimes/raw-workerd.ts";
import { load, platform, writePieces } from "./index.ts";

const pico = fileURLToPath(picoGguf);
const scripts = fileURLToPath(new URL("../test/runtimes/", import.meta.url));

/** The program itself: the package's command is a script around it, which would not end with it. */
const workerd: string = createRequire(import.meta.url)("workerd").default;

/** What is put into R2 and KV from outside: their own types come from a package of types alone. */
interface Binding {
  put(key: string, value: Uint8Array): Promise<unknown>;
}

let folder = "";
let served: Served;
let expected: Answer;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "lowbit-runtimes-"));
  served = await serveFolder(fileURLToPath(new URL(".", picoGguf)));
  await using model = await load(picoGguf);
  expected = await question(model);
});
afterAll(() => {
  served.close();
  rmSync(folder, { recursive: true, force: true });
});

it("Node answers right, so that the others can be held against it", () => {
  expect(expected).toMatchObject({ text: "12 + 7 = 19.", backend: "wasm" });
  expect(expected.ids.length).toBe(10);
});

describe.each([
  ["node", [process.execPath]],
  ["deno", [developmentProgram("deno"), "run", "-A", "--quiet"]],
  ["bun", [developmentProgram("bun"), "run"]],
] as const)("%s", (runtime, [command, ...flags]) => {
  const ask = async (...args: string[]): Promise<unknown> => {
    const env = { ...process.env, LOWBIT_CACHE: join(folder, runtime), DENO_NO_UPDATE_CHECK: "1" };
    const options = { cwd: scripts, env };
    const { stdout } = await promisify(execFile)(command, [...flags, "answer.ts", ...args], options);
    return JSON.parse(stdout);
  };

  it("answers from a file with the same tokens and logits", async () => {
    expect(await ask(pico)).toEqual({ runtime, ...expected });
  });

  it("answers over HTTP, and from its cache when the server is gone", async () => {
    const url = `${served.base}/pico-Q8_0.gguf`;
    expect(await ask(url, "cached")).toEqual({ runtime, ...expected });
    const before = served.sentBytes();
    served.down = true;
    try {
      expect(await ask(url, "cached")).toEqual({ runtime, ...expected });
    } finally {
      served.down = false;
    }
    expect(served.sentBytes()).toBe(before);
  });
});

describe("workerd", () => {
  let miniflare: Miniflare;
  let modules: string[];
  let bundle = "";
  beforeAll(async () => {
    bundle = join(folder, "worker");
    modules = await bundleWorker(join(scripts, "worker.ts"), bundle);
    const assets = join(folder, "assets");
    mkdirSync(assets);
    const target = await writableFolder(join(assets, "pico"));
    await writePieces(await platform().files(picoGguf), target, { pieceBytes: 2 ** 20 });
    miniflare = new Miniflare({
      modules: workerModules(bundle, modules),
      modulesRoot: bundle,
      compatibilityDate: "2026-07-01",
      r2Buckets: ["MODELS"],
      kvNamespaces: ["PIECES"],
      assets: {
        directory: assets,
        binding: "ASSETS",
        routerConfig: { has_user_worker: true, invoke_user_worker_ahead_of_assets: true },
      },
    });
    const bucket = (await miniflare.getR2Bucket("MODELS")) as unknown as Binding;
    await bucket.put("models/pico-Q8_0.gguf", readFileSync(pico));
    const pieces = (await miniflare.getKVNamespace("PIECES")) as unknown as Binding;
    for (const name of readdirSync(join(assets, "pico")))
      await pieces.put(`pico/${name}`, readFileSync(join(assets, "pico", name)));
  });
  afterAll(() => miniflare?.dispose());

  const ask = async (path: string): Promise<unknown> =>
    (await miniflare.dispatchFetch(`http://worker/${path}`)).json();
  const answer = { runtime: "workerd", limit: 100 * 2 ** 20 };

  it("bundles WebAssembly as two modules", () => {
    expect(modules.filter((name) => name.endsWith(".wasm")).length).toBe(2);
    expect(readFileSync(join(bundle, "worker.mjs"), "utf8")).not.toMatch(/from\s*"node:/);
  });

  it.each([
    ["an R2 folder", "r2/models/"],
    ["an R2 object", "r2/models/pico-Q8_0.gguf"],
    ["KV values", "kv/pico/"],
    ["static assets", "assets/pico/"],
  ])("answers from %s", async (_, path) => {
    expect(await ask(path)).toEqual({ ...answer, ...expected });
  });

  it("answers over HTTP with the Cache API, and without the server the second time", async () => {
    const path = `http/${encodeURIComponent(`${served.base}/pico-Q8_0.gguf`)}`;
    expect(await ask(path)).toEqual({ ...answer, ...expected });
    served.down = true;
    try {
      expect(await ask(path)).toEqual({ ...answer, ...expected });
    } finally {
      served.down = false;
    }
  });

  it("answers without miniflare, too", async () => {
    const worker = await rawWorkerd(workerd, bundle, modules, join(folder, "raw"));
    try {
      const path = `http/${encodeURIComponent(`${served.base}/pico-Q8_0.gguf`)}?cache=off`;
      const response = await fetch(`${worker.base}/${path}`);
      expect(await response.json()).toEqual({ ...answer, ...expected });
    } finally {
      await worker.close();
    }
  });
});

describe("edge-light", () => {
  it("answers over HTTP, with modules that the bundle brings", async () => {
    const bundle = await bundleEdge(join(scripts, "edge.ts"));
    expect([Object.keys(bundle.wasmModules).length, bundle.script.includes("import.meta")]).toEqual([
      2,
      false,
    ]);
    const runtime = startEdge(bundle);
    const call = `edge.answer(${JSON.stringify(`${served.base}/pico-Q8_0.gguf`)})`;
    const answer = JSON.parse(await runtime.evaluate<Promise<string>>(call));
    expect(answer).toEqual({ runtime: "edge-light", limit: 100 * 2 ** 20, ...expected });
  });
});
