import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromiumWanted } from "@lowbit/testing/chromium";
import { writeTinyModel } from "@lowbit/testing/tiny-model";
import { afterAll, beforeAll, expect, it } from "vitest";
import { readBandwidth } from "./bandwidth.ts";
import { runCell } from "./cell.ts";
import { promptOf } from "./contestant.ts";
import { bundleEngines } from "./engines/bundle.ts";
import { described } from "./models.ts";
import { defaults } from "./plan.ts";

let folder = "";
// Below this package, whose dependencies the bundles find from there.
const dist = fileURLToPath(new URL("../dist/test", import.meta.url));
const options = {
  say: () => {},
  dist,
  measureMemory: (threads: number) => readBandwidth(threads, 1, 10),
};
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "lowbit-bench-"));
  await bundleEngines(dist);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("every engine that is there has its passes on one file, and the others have reasons", async () => {
  const path = join(folder, "tiny.gguf");
  await writeTinyModel(path, { architecture: "llama", vocabularySize: 400, contextLength: 512 });
  const engines = ["lowbit", "node-llama-cpp", ...(chromiumWanted ? ["lowbit-chromium"] : [])];
  const model = await described(path);
  expect(model.kvBytes).toBe(2 * 2 * 2 * 16 * 2);
  const result = await runCell(
    {
      ...{ ...defaults, shape: path, type: "", threads: 1, engines, prompts: [40], contexts: [40, 96] },
      ...{ decodeTokens: 4, rounds: 2, loads: 2, quietLimitMs: 0 },
    },
    model,
    options,
  );
  expect(result.absent).toEqual({});
  expect(result.engines.map(({ name }) => name)).toEqual(engines);
  for (const engine of result.engines) {
    expect(engine.loadMs, engine.name).toHaveLength(2);
    expect(Object.keys(engine.prefill), engine.name).toEqual(["40"]);
    expect(Object.keys(engine.decode), engine.name).toEqual(["40", "96"]);
    for (const { samples } of [...Object.values(engine.prefill), ...Object.values(engine.decode)]) {
      expect(samples, engine.name).toHaveLength(2);
      expect(Math.min(...samples), engine.name).toBeGreaterThan(0);
    }
    for (const [i, load] of engine.loadMs.entries())
      expect(engine.openToFirstTokenMs[i], engine.name).toBeGreaterThan(load);
    expect(engine.omitted, engine.name).toEqual({});
    expect(engine.downloadBytes === undefined, engine.name).toBe(engine.name !== "lowbit-chromium");
  }
  expect(result.bandwidth.bytesPerSecond).toBeGreaterThan(1e8);
  // Before memory is read, before engines warm up, and before each round of either kind.
  expect(result.gates).toHaveLength(6);
});

it("an engine that fails later keeps what it has shown, and the others go on", async () => {
  const path = join(folder, "tiny.gguf");
  const model = await described(path);
  const cell = {
    ...defaults,
    shape: path,
    type: "",
    threads: 1,
    quietLimitMs: 0,
    rounds: 1,
    decodeTokens: 2,
  };
  // Ids beyond the vocabulary, which lowbit refuses, in the second prompt, but not in the first.
  const refused = (size: number, length: number, seed: number) =>
    promptOf(length, seed, size).some((id) => id >= model.vocabularySize);
  const sizes = Array.from({ length: 400 }, (_, i) => model.vocabularySize + i);
  const vocabularySize = sizes.find((size) => !refused(size, 8, 9999) && refused(size, 32, 9998)) ?? 0;
  const { engines } = await runCell(
    { ...cell, engines: ["lowbit"], prompts: [16], contexts: [16] },
    { ...model, vocabularySize },
    options,
  );
  expect(engines[0]?.loadMs).toHaveLength(1);
  expect(engines[0]?.omitted["from the warming up on"]).toMatch(/^Token \d+ is/);
});

it("an engine that does not start is left out with what it said", async () => {
  const path = join(folder, "tiny.gguf");
  const model = { ...(await described(path)), path: join(folder, "gone.gguf") };
  const cell = { ...defaults, shape: path, type: "", threads: 1, engines: ["lowbit"], quietLimitMs: 0 };
  const { absent, engines } = await runCell({ ...cell, rounds: 1 }, model, options);
  expect(engines).toEqual([]);
  expect(absent.lowbit).toContain("gone.gguf");
});
