import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { ggmlTypes } from "@lowbit/gguf";
import { writeTinyModel } from "@lowbit/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { inspect, load } from "./index.ts";

const pico = new URL("../../../models/pico/pico-Q8_0.gguf", import.meta.url);
const root = fileURLToPath(new URL("../../..", import.meta.url));
const typeNamed = (name: string) => [...ggmlTypes.values()].find((type) => type.name === name);

describe("what the plan admits", () => {
  it.each([64, 256, 1024])("runs within it, to the last token of a context of %d", async (contextLength) => {
    const { plan } = await inspect(pico, { contextLength, backend: "wasm" });
    const memoryLimitBytes = (plan?.totalBytes ?? 0) + (plan?.transferBytes ?? 0);
    await using model = await load(pico, { contextLength, memoryLimitBytes, backend: "wasm" });
    expect(model.info.plan.totalBytes).toBe(plan?.totalBytes);
    const tokens = Array.from({ length: contextLength }, (_, i) => (i * 5) % 1000);
    const logits = await model.forward(tokens);
    expect(logits.every(Number.isFinite)).toBe(true);
  });

  it("a limit lower by a tenth is met with smaller passes or a refusal, never by running out", async () => {
    const { plan } = await inspect(pico, { contextLength: 256, backend: "wasm" });
    for (let share = 0.95; share > 0.5; share -= 0.05) {
      const memoryLimitBytes = Math.ceil((plan?.totalBytes ?? 0) * share) + (plan?.transferBytes ?? 0);
      const options = { contextLength: 256, memoryLimitBytes, backend: "wasm" };
      const outcome = await load(pico, options).then(
        async (model) => {
          const { length } = await model.forward(new Int32Array(256).fill(5));
          await model.dispose();
          return length;
        },
        (error) => error.reason,
      );
      expect([256 * 1024, "memory-plan"]).toContain(outcome);
    }
  });
});

describe("host memory", () => {
  let folder = "";
  let file = "";
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "lowbit-memory-"));
    file = join(folder, "model.gguf");
    const type = typeNamed("Q8_0");
    // 94 MB: more than the allowance, so that a second copy shows.
    const shape = { embeddingSize: 768, feedForwardSize: 2048, layers: 14, heads: 12, kvHeads: 4 };
    await writeTinyModel(file, { architecture: "llama", contextLength: 64, ...shape, ...(type && { type }) });
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("while loading stays under the backend's, plus the largest weight, plus 64 MiB", async () => {
    const code = `
      import { load } from "lowbit";
      const before = process.memoryUsage.rss();
      const model = await load(process.argv[1], { backend: "wasm" });
      const grown = process.resourceUsage().maxRSS * 1024 - before;
      const { totalBytes, transferBytes } = model.info.plan;
      console.log(JSON.stringify({ grown, totalBytes, transferBytes }));
      await model.dispose();
    `;
    const args = ["--input-type=module", "--eval", code, file];
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: root });
    const { grown, totalBytes, transferBytes } = JSON.parse(stdout);
    expect(grown).toBeGreaterThan(80e6);
    expect(grown).toBeLessThan(totalBytes + transferBytes + 64 * 2 ** 20);
  });
});
