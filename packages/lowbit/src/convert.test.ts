import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ConversionProgress, ConversionReport, ConvertOptions, GenerateRequest } from "./index.ts";
import { convert, load, memoryOutput } from "./index.ts";

const hf: string = fileURLToPath(new URL("../../../models/pico/hf", import.meta.url));
const root: string = fileURLToPath(new URL("../../..", import.meta.url));
const ask = (content: string): GenerateRequest => ({ messages: [{ role: "user", content }], temperature: 0 });

let folder = "";
const made = new Map<string, Promise<ConversionReport>>();
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowbit-convert-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Converts once, however often it is asked for. */
function once_(name: string, from: string, options: ConvertOptions): Promise<ConversionReport> {
  const report =
    made.get(name) ?? convert(from === "hf" ? hf : join(folder, from), join(folder, name), options);
  made.set(name, report);
  return report;
}

async function answer(name: string, backend: string): Promise<string> {
  await using model = await load(join(folder, name), { backend });
  const { text } = await model.complete({ ...ask("What is 12 + 7?"), maxTokens: 24 });
  return text;
}

async function logits(path: string): Promise<Float32Array> {
  await using model = await load(path, { backend: "reference", contextLength: 64 });
  return await model.forward(model.tokenizer.encode("What is the capital of France?"));
}

const targets: readonly [name: string, options: ConvertOptions, mostError: number][] = [
  ["safetensors", { to: "safetensors" }, 0],
  ["gguf", { to: "gguf" }, 0],
  ["gguf-Q8_0", { to: "gguf", type: "Q8_0" }, 0.01],
  ["gptq", { to: "gptq", bits: 8 }, 0.02],
  ["gptq-4bit", { to: "gptq", groupSize: 32 }, 0.2],
  ["awq", { to: "awq", groupSize: 32 }, 0.2],
  ["exl2", { to: "exl2", bits: 6 }, 0.1],
  ["bitsandbytes", { to: "bitsandbytes" }, 0.2],
  ["compressed-tensors", { to: "compressed-tensors", bits: 8 }, 0.02],
  ["hqq", { to: "hqq", bits: 8 }, 0.02],
];

describe("pico", () => {
  it.each(targets)("becomes %s, and answers", async (name, options, mostError) => {
    const report = await once_(name, "hf", options);
    const { requantized, exact, lossless } = report.totals;
    expect(requantized.tensors + exact.tensors + lossless.tensors).toBe(38);
    for (const { role, error } of report.weights) {
      expect([role, error?.relativeRms ?? 0]).toEqual([role, expect.toSatisfy((rms) => rms <= mostError)]);
    }
    expect(existsSync(join(folder, `${name}.partial`))).toBe(false);
    for (const backend of ["reference", "wasm"]) expect(await answer(name, backend)).toBe("12 + 7 = 19.");
  });

  it("keeps every value where nothing else is asked", async () => {
    for (const [name] of targets.slice(0, 2)) {
      await once_(name, "hf", { to: name });
      expect(await logits(join(folder, name))).toEqual(await logits(hf));
    }
  });
});
