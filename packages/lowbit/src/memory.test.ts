import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { ggmlTypes } from "@lowbit/gguf";
import { writeTinyModel } from "@lowbit/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type ConvertOptions, convert, inspect, load } from "./index.ts";

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

  /** What the process grew by while the model was loaded, beside its plan. */
  async function loading(
    path: string,
  ): Promise<{ grown: number; totalBytes: number; transferBytes: number; weightBytes: number }> {
    const code = `
      import { load } from "lowbit";
      const before = process.memoryUsage.rss();
      const model = await load(process.argv[1], { backend: "wasm" });
      const grown = process.resourceUsage().maxRSS * 1024 - before;
      const { totalBytes, transferBytes, weightBytes } = model.info.plan;
      console.log(JSON.stringify({ grown, totalBytes, transferBytes, weightBytes }));
      await model.dispose();
    `;
    const args = ["--input-type=module", "--eval", code, path];
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: root });
    return JSON.parse(stdout);
  }

  it("while loading stays under the backend's, plus the largest weight, plus 64 MiB", async () => {
    const { grown, totalBytes, transferBytes } = await loading(file);
    expect(grown).toBeGreaterThan(80e6);
    expect(grown).toBeLessThan(totalBytes + transferBytes + 64 * 2 ** 20);
  });

  const packed: readonly ConvertOptions[] = [{ to: "gptq" }, { to: "bitsandbytes" }];
  it.each(packed)("$to: weights stay packed, and there is no dense copy of the model", async (options) => {
    const output = join(folder, options.to);
    await convert(file, output, options);
    const { tensors, plan } = await inspect(output, { backend: "wasm" });
    const layers = tensors.filter(({ role, shape }) => role?.startsWith("layers.") && shape.length === 2);
    const total = (pick: (tensor: (typeof layers)[number]) => number): number =>
      layers.reduce((sum, tensor) => sum + pick(tensor), 0);
    const weights = total(({ shape }) => shape.reduce((product, size) => product * size, 1));
    // Bits per weight, in memory and in the file.
    const difference =
      (8 * (total((tensor) => tensor.backendBytes ?? 0) - total(({ bytes }) => bytes))) / weights;
    expect(Math.abs(difference)).toBeLessThan(0.2);
    const { grown, weightBytes, transferBytes } = await loading(output);
    expect(weightBytes).toBe(plan?.weightBytes);
    // A dense copy in half precision would be 190 MB.
    expect(grown).toBeLessThan(weightBytes + transferBytes + 80 * 2 ** 20);
  });
});
