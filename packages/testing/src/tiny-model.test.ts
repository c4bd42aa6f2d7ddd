import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { memorySource } from "@lowbit/core";
import { F16, F32, Q4_0, Q4_K, Q6_K, Q8_0, readGguf } from "@lowbit/gguf";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { llamaCpp } from "./llama-cpp.ts";
import {
  modelShapes,
  type TinyModelOptions,
  tinyModel,
  tinyModelBytes,
  writeTinyModel,
} from "./tiny-model.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowbit-tiny-"));
});
afterAll(() => rm(folder, { recursive: true }));

describe("tinyModel", () => {
  test("is the same for the same options, another for another seed", async () => {
    const first = await tinyModelBytes({ architecture: "llama" });
    expect(equal(await tinyModelBytes({ architecture: "llama" }), first)).toBe(true);
    expect(equal(await tinyModelBytes({ architecture: "llama", seed: 2 }), first)).toBe(false);
  });

  test("file and bytes are one", async () => {
    const path = join(folder, "llama.gguf");
    await writeTinyModel(path, { architecture: "llama" });
    expect(equal(await readFile(path), await tinyModelBytes({ architecture: "llama" }))).toBe(true);
  });

  test("types by tensor; vectors and routers stay F32", () => {
    const { tensors } = tinyModel({
      architecture: "llama",
      experts: { count: 4, used: 2 },
      type: (name) => (name.includes("embd") ? F16 : Q8_0),
    });
    const types = new Map(tensors.map(({ name, type }) => [name, type]));
    expect(types.get("token_embd.weight")).toBe(F16);
    expect(types.get("blk.0.attn_q.weight")).toBe(Q8_0);
    expect(types.get("blk.1.ffn_down_exps.weight")).toBe(Q8_0);
    expect(types.get("blk.1.ffn_gate_inp.weight")).toBe(F32);
    expect(types.get("output_norm.weight")).toBe(F32);
  });

  test("true shapes have the parameter counts of their names", () => {
    const count = (options: TinyModelOptions): number =>
      tinyModel(options).tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
    expect(count(modelShapes["smollm2-135m"])).toBe(134_515_008);
    expect(count(modelShapes["qwen2.5-0.5b"])).toBe(494_032_768);
    expect(count(modelShapes["llama-3.2-1b"])).toBe(1_235_814_432);
  });

  const quantized: [string, TinyModelOptions][] = [
    ["Q4_0", { architecture: "llama", type: Q4_0 }],
    [
      "Q8_0 mixture",
      { architecture: "qwen3moe", experts: { count: 8, used: 2, feedForwardSize: 64 }, type: Q8_0 },
    ],
    ["F16 with a large vocabulary", { architecture: "gpt2", vocabularySize: 40_000, type: F16 }],
    [
      "k-quants with pooled blocks",
      {
        architecture: "llama",
        embeddingSize: 256,
        feedForwardSize: 5120,
        layers: 1,
        type: (n) => (n.includes("down") ? Q6_K : Q4_K),
      },
    ],
  ];
  test.each(quantized)("llama.cpp reads it: %s", async (name, options) => {
    const path = join(folder, `${name}.gguf`);
    await writeTinyModel(path, options);
    const llama = await llamaCpp(path);
    try {
      const tokens = [40, 41, 300, 5, 41, 299];
      const logits = await llama.logits(tokens);
      const last = logits.subarray(-llama.vocabularySize);
      expect(logits.every(Number.isFinite)).toBe(true);
      const mean = last.reduce((a, b) => a + b) / last.length;
      const deviation = Math.sqrt(last.reduce((sum, logit) => sum + (logit - mean) ** 2, 0) / last.length);
      // Logits are drawn with a standard deviation of 3.
      expect(deviation).toBeGreaterThan(2);
      expect(deviation).toBeLessThan(4.5);
    } finally {
      await llama.dispose();
    }
  });

  test("our reader sees every tensor", async () => {
    const contents = tinyModel({ architecture: "gemma3", layers: 6 });
    const bytes = await tinyModelBytes({ architecture: "gemma3", layers: 6 });
    const header = await readGguf(memorySource(bytes));
    expect(header.tensors.map(({ name }) => name)).toEqual(contents.tensors.map(({ name }) => name));
  });
});

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
