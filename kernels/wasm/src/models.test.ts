import { memorySource, singleFile } from "@lowbit/core";
import { F32, ggmlTypes, openGguf } from "@lowbit/gguf";
import { reference } from "@lowbit/kernels-reference";
import { architectures } from "@lowbit/models";
import {
  describeWithData,
  meanDivergence,
  runModel,
  type TinyModelOptions,
  testData,
  testPlatform,
  tinyModelBytes,
  trackedFiles,
} from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { backendOf, randomOf, sameBits } from "../test/support.ts";
import type { ModuleName } from "./modules.ts";

const models: Record<string, TinyModelOptions> = {
  llama: { architecture: "llama" },
  "llama, one key head of 24": { architecture: "llama", kvHeads: 1, keySize: 24 },
  mixtral: { architecture: "llama", experts: { count: 4, used: 2 }, feedForwardSize: 64 },
  qwen2: { architecture: "qwen2" },
  qwen2moe: { architecture: "qwen2moe", experts: { count: 8, used: 3 } },
  "qwen3, wide heads": { architecture: "qwen3", keySize: 32 },
  qwen3moe: { architecture: "qwen3moe", experts: { count: 8, used: 3 } },
  gemma: { architecture: "gemma", keySize: 32 },
  gemma2: { architecture: "gemma2", layers: 4, keySize: 32 },
  gemma3: { architecture: "gemma3", layers: 7 },
  phi3: { architecture: "phi3" },
  gpt2: { architecture: "gpt2" },
  bitnet: { architecture: "bitnet" },
};

/** Logits of a file's model on the reference and on the builds, whole, in chunks and token by token. */
async function compare(open: () => ReturnType<typeof openGguf>, count: number): Promise<number> {
  const random = randomOf(5);
  const first = await open();
  const columns = first.config.vocabularySize;
  await first.close();
  const tokens = Array.from({ length: count }, () => Math.floor(random() * Math.min(columns, 300)));
  const run = async (kind: "reference" | ModuleName, chunk: number): Promise<Float32Array> => {
    const backend = kind === "reference" ? await reference().create(testPlatform()) : await backendOf(kind);
    const checkpoint = await open();
    const logits = await runModel({ checkpoint, architectures, backend, tokens, chunk });
    await checkpoint.close();
    await backend.dispose();
    return logits;
  };
  const simd = await run("simd128", count);
  for (const chunk of [count, 7, 1]) {
    for (const kind of ["relaxed", "relaxed-threads", "relaxed-memory64"] as const) {
      expect(sameBits(await run(kind, chunk), simd), `${kind}, chunks of ${chunk}`).toBe(true);
    }
  }
  return meanDivergence(await run("reference", count), simd, columns);
}

describe("whole models: builds, threads and all chunkings agree to the last bit", () => {
  const types = [
    F32,
    ...["Q8_0", "Q4_0"].map((name) => [...ggmlTypes.values()].find((t) => t.name === name)!),
  ];
  it.each(Object.keys(models))("%s", async (name) => {
    for (const type of types) {
      // Rows that are no whole blocks stay F32, as in real files.
      const options = {
        ...models[name]!,
        type: (_: string, shape: readonly number[]) => ((shape.at(-1) ?? 0) % 32 === 0 ? type : F32),
      };
      const bytes = await tinyModelBytes(options);
      const kl = await compare(() => openGguf(singleFile(memorySource(bytes), "tiny.gguf")), 24);
      // With f32 weights only sums differ; else int8 activations meet random weights with steep logits.
      expect(kl, type.name).toBeLessThan(type === F32 ? 1e-9 : 5e-3);
      expect(kl).toBeGreaterThan(-1e-12);
    }
  });
});

const files = [
  "models/stories260K/stories260K-F16.gguf",
  "models/stories260K/stories260K-Q8_0.gguf",
  "models/bitllama-3M/bitllama-3M-Q4_K_M.gguf",
  "models/bitllama-3M/bitllama-3M-IQ2_S.gguf",
];
describeWithData("real models stay within 1e-3 of the reference", files, () => {
  it.each(files)("%s", async (file) => {
    const path = testData(file) ?? "";
    expect(await compare(() => openGguf(trackedFiles(path)), 24)).toBeLessThan(1e-3);
  });
});
