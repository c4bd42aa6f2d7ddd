// The same two models on every runtime: the same tokens, and the same bits of every logit. README.md shows the table.
import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { picoGguf } from "@lowbit/pico";
import { chromium, chromiumWanted, inChromium } from "@lowbit/testing/chromium";
import { bundleEdge, startEdge } from "@lowbit/testing/edge";
import { type Served, serveFolder } from "@lowbit/testing/serve-folder";
import { developmentProgram } from "@lowbit/testing/serve-process";
import { bundleWorker, workerModules } from "@lowbit/testing/worker";
import { Miniflare } from "miniflare";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundlePage } from "../test/runtimes/bundle.ts";
import { type Conformance, conform } from "../test/runtimes/conform.ts";
import { rawWorkerd } from "../test/runtimes/raw-workerd.ts";
import { convert } from "./index.ts";

const scripts = fileURLToPath(new URL("../test/runtimes/", import.meta.url));
const readme = new URL("../../../README.md", import.meta.url);
const workerd: string = createRequire(import.meta.url)("workerd").default;
/** As in CI: nothing is skipped. */
const everywhere = process.env.LOWBIT_ALL_RUNTIMES !== undefined;
/** No package brings this program: one version of Node.js is installed. */
const node22 = process.env.LOWBIT_NODE_22;

let folder = "";
let served: Served;
let expected: Conformance;
/** By runtime, for the table. */
const rows = new Map<string, Conformance>();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "lowbit-conformance-"));
  cpSync(picoGguf, join(folder, "pico.gguf"));
  await convert(picoGguf, join(folder, "gptq"), { to: "gptq", bits: 4, groupSize: 32 });
  served = await serveFolder(folder);
  expected = await conform({ gguf: join(folder, "pico.gguf"), gptq: join(folder, "gptq") });
}, 60_000);
afterAll(() => {
  served?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Runtimes without workers that share memory. */
const alone: readonly string[] = [
  "workerd in miniflare, from R2",
  "workerd alone, over HTTP",
  "Vercel's edge runtime",
];

/** Same tokens; logits equal to the last bit, on plain SIMD, on whatever the engine chose, and on two threads. */
function check(runtime: string, got: Conformance): void {
  expect(got, runtime).not.toHaveProperty("error");
  for (const model of ["gguf", "gptq"] as const) {
    const { threads } = got[model];
    expect(threads?.build, runtime).toEqual(
      alone.includes(runtime) ? undefined : expect.stringContaining("2 threads"),
    );
    for (const conduct of [got[model].simd128, got[model].auto, ...(threads ? [threads] : [])]) {
      const { build, ...said } = conduct;
      const { build: _, ...wanted } = expected[model].simd128;
      expect(said, `${runtime}, ${model}, ${build}`).toEqual(wanted);
    }
    // Else the two would be one.
    expect(got[model].simd128.build, runtime).toContain("128-bit SIMD");
    expect(got[model].auto.build, runtime).toBe(got.gguf.auto.build);
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

  it.skipIf(node22 === undefined && !everywhere)(
    `Node.js 22${node22 ? "" : " (skipped: LOWBIT_NODE_22 does not name its program)"}`,
    async () => {
      if (node22 === undefined)
        throw new Error("With LOWBIT_ALL_RUNTIMES, LOWBIT_NODE_22 must be the path of a Node.js 22.");
      const { stdout } = await promisify(execFile)(node22, ["--version"]);
      expect(stdout).toMatch(/^v22\./);
      check("Node.js 22", await script(node22));
    },
  );

  it("Deno", async () => check("Deno", await script(developmentProgram("deno"), "run", "-A", "--quiet")));

  it("Bun", async () => check("Bun", await script(developmentProgram("bun"), "run")));

  it("workerd", async () => {
    const bundle = join(folder, "worker");
    const modules = await bundleWorker(join(scripts, "conform-worker.ts"), bundle);
    const miniflare = new Miniflare({
      modules: workerModules(bundle, modules),
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

  it.skipIf(!chromiumWanted)(
    `Chromium${chromiumWanted ? "" : ` (skipped: there is no ${chromium})`}`,
    async () => {
      await bundlePage(folder, "conform-page.ts");
      const reports = new Map<string, Conformance>();
      let arrived = () => {};
      const answered = new Promise<void>((resolve) => {
        arrived = resolve;
      });
      const pages = await serveFolder(folder, (path, body) => {
        reports.set(path, JSON.parse(body));
        if (reports.size === 2) arrived();
      });
      try {
        await inChromium(`${pages.base}/page/index.html`, answered);
      } finally {
        pages.close();
      }
      for (const place of ["page", "worker"])
        check(`Chromium, ${place}`, reports.get(`/report/${place}`) as Conformance);
    },
    90_000,
  );

  it("README.md shows what came of it", () => {
    const lines = [...rows].map(([runtime, { gguf, gptq }]) => {
      const chosen = gguf.auto.build.includes("relaxed") ? "relaxed SIMD" : "128-bit SIMD";
      const tokens = gguf.simd128.ids.length + gptq.simd128.ids.length;
      return `| ${runtime} | the same ${tokens} | equal to the last bit | ${chosen} |`;
    });
    console.log(lines.join("\n"));
    const [, table = ""] =
      /^\| runtime \| tokens .*\n\|[-|]+\n((?:\|.*\n)+)/m.exec(readFileSync(readme, "utf8")) ?? [];
    const shown = table.trimEnd().split("\n");
    const ran = (line: string): boolean => everywhere || rows.has(line.split(" | ")[0]?.slice(2) ?? "");
    expect(shown.filter(ran)).toEqual(lines);
  });
});
