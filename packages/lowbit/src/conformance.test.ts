// The same two models on every runtime: the same tokens, and the same bits of every logit. README.md shows the table.
import { execFile, spawn } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { picoGguf } from "@lowbit/pico";
import { bundleEdge, startEdge } from "@lowbit/testing/edge";
import { type Served, serveFolder } from "@lowbit/testing/serve-folder";
import { Miniflare } from "miniflare";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundled, bundlePage, bundleWorker } from "../test/runtimes/bundle.ts";
import { type Conformance, conform } from "../test/runtimes/conform.ts";
import { rawWorkerd } from "../test/runtimes/raw-workerd.ts";
import { convert } from "./index.ts";

const scripts = fileURLToPath(new URL("../test/runtimes/", import.meta.url));
const readme = new URL("../../../README.md", import.meta.url);
const program = (name: string): string =>
  fileURLToPath(new URL(`../../../node_modules/.bin/${name}`, import.meta.url));
const workerd: string = createRequire(import.meta.url)("workerd").default;
/** Programs that no package brings. CI has them, and sets LOWBIT_ALL_RUNTIMES: nothing is skipped then. */
const node22 = process.env.LOWBIT_NODE_22;
const chromium = process.env.LOWBIT_CHROMIUM ?? "/usr/bin/chromium";

let folder = "";
let served: Served;
let expected: Conformance;
/** By path, what the page has posted. */
const posted = new Map<string, string>();
/** Rows of the table. */
const rows = new Map<string, Conformance>();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "lowbit-conformance-"));
  cpSync(picoGguf, join(folder, "pico.gguf"));
  await convert(picoGguf, join(folder, "gptq"), { to: "gptq", bits: 4, groupSize: 32 });
  served = await serveFolder(folder, (path, body) => posted.set(path, body));
  expected = await conform({ gguf: join(folder, "pico.gguf"), gptq: join(folder, "gptq") });
}, 60_000);
afterAll(() => {
  served?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Same tokens; logits equal to the last bit, on plain SIMD and on whatever the engine chose. */
function check(runtime: string, got: Conformance): void {
  expect(got).not.toHaveProperty("error");
  for (const model of ["gguf", "gptq"] as const) {
    for (const variant of ["simd128", "auto"] as const) {
      const { build, ...said } = got[model][variant];
      const { build: _, ...wanted } = expected[model].simd128;
      expect(said, `${runtime}, ${model}, ${build}`).toEqual(wanted);
    }
  }
  rows.set(runtime, got);
}

it("the models answer, so that the others can be held against them", () => {
  expect(expected.gguf.simd128.texts[0]).toBe("12 + 7 = 19.");
  expect(expected.gptq.simd128.texts[0]).toBe("12 + 7 = 19.");
  expect(expected.gguf.simd128.ids.length).toBeGreaterThan(60);
  expect(expected.gptq.simd128.logits).not.toBe(expected.gguf.simd128.logits);
});

describe("conformance", () => {
  const script = async (command: string, ...flags: string[]): Promise<Conformance> => {
    const args = [...flags, "conform-script.ts", join(folder, "pico.gguf"), join(folder, "gptq")];
    const env = { ...process.env, DENO_NO_UPDATE_CHECK: "1", NODE_NO_WARNINGS: "1" };
    const { stdout } = await promisify(execFile)(command, args, { cwd: scripts, env });
    return JSON.parse(stdout);
  };

  it("Node.js 24", async () => check("Node.js 24", await script(process.execPath)));

  it.skipIf(node22 === undefined && process.env.LOWBIT_ALL_RUNTIMES === undefined)(
    `Node.js 22${node22 ? "" : " (skipped without LOWBIT_NODE_22, the path of its program)"}`,
    async () => {
      if (node22 === undefined)
        throw new Error("With LOWBIT_ALL_RUNTIMES, LOWBIT_NODE_22 must be the path of a Node.js 22.");
      const { stdout } = await promisify(execFile)(node22, ["--version"]);
      expect(stdout).toMatch(/^v22\./);
      check("Node.js 22", await script(node22));
    },
  );

  it("Deno", async () => check("Deno", await script(program("deno"), "run", "-A", "--quiet")));

  it("Bun", async () => check("Bun", await script(program("bun"), "run")));

  it("workerd", async () => {
    const bundle = join(folder, "worker");
    const modules = await bundleWorker(bundle, "conform-worker.ts");
    const miniflare = new Miniflare({
      // The entry comes first.
      modules: [...modules].reverse().map((name) => bundled(bundle, name)),
      modulesRoot: bundle,
      compatibilityDate: "2026-07-01",
      r2Buckets: ["MODELS"],
    });
    try {
      const bucket = (await miniflare.getR2Bucket("MODELS")) as unknown as {
        put(key: string, value: Uint8Array): Promise<unknown>;
      };
      const files = readdirSync(join(folder, "gptq")).map((name) => `gptq/${name}`);
      for (const key of ["pico.gguf", ...files]) await bucket.put(key, readFileSync(join(folder, key)));
      const response = await miniflare.dispatchFetch("http://worker/");
      check("workerd in miniflare, from R2", (await response.json()) as Conformance);
    } finally {
      await miniflare.dispose();
    }
    const raw = await rawWorkerd(workerd, bundle, modules, join(folder, "raw"));
    try {
      const response = await fetch(`${raw.base}/?base=${encodeURIComponent(served.base)}`);
      check("workerd alone, over HTTP", (await response.json()) as Conformance);
    } finally {
      await raw.close();
    }
  });

  it("Vercel's edge runtime", async () => {
    const bundle = await bundleEdge(join(scripts, "conform-edge.ts"));
    const call = `edge.run(${JSON.stringify(served.base)})`;
    const said = await startEdge(bundle).evaluate<Promise<string>>(call);
    check("Vercel's edge runtime", JSON.parse(said));
  });

  it.skipIf(!existsSync(chromium) && process.env.LOWBIT_ALL_RUNTIMES === undefined)(
    `Chromium${existsSync(chromium) ? "" : ` (skipped: there is no ${chromium})`}`,
    async () => {
      await bundlePage(folder, "conform-page.ts");
      // No sandbox, as the tests may run as root in a container; the page is ours.
      const flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
      ];
      const page = `${served.base}/page/index.html`;
      const browser = spawn(chromium, [...flags, `--user-data-dir=${join(folder, "profile")}`, page], {
        stdio: "ignore",
      });
      const failed = new Promise<never>((_, reject) => browser.on("error", reject));
      const ended = new Promise((done) => browser.on("close", done));
      try {
        const said = async (path: string): Promise<Conformance> => {
          const arrived = expect.poll(() => posted.get(path), { timeout: 60_000 }).toBeDefined();
          await Promise.race([arrived, failed]);
          return JSON.parse(posted.get(path) ?? "{}");
        };
        check("Chromium, page", await said("/report/page"));
        check("Chromium, worker", await said("/report/worker"));
      } finally {
        browser.kill("SIGKILL");
        await ended;
      }
    },
    90_000,
  );

  it("README.md shows what came of it", () => {
    const text = readFileSync(readme, "utf8");
    const lines = [...rows].map(([runtime, { gguf, gptq }]) => {
      const { build } = gguf.auto;
      const chosen = build.includes("relaxed") ? "relaxed SIMD" : "128-bit SIMD";
      const tokens = gguf.simd128.ids.length + gptq.simd128.ids.length;
      return `| ${runtime} | the same ${tokens} | equal to the last bit | ${chosen} |`;
    });
    console.log(lines.join("\n"));
    for (const line of lines) expect(text).toContain(line);
    if (process.env.LOWBIT_ALL_RUNTIMES) expect(rows.size).toBe(9);
  });
});
