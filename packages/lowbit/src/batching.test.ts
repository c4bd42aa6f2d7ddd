import { F32, Q4_K, Q8_0 } from "@lowbit/gguf";
import { type TinyModelOptions, tinyModelBytes } from "@lowbit/testing/tiny-model";
import { describe, expect, it } from "vitest";
import {
  architectures,
  createEngine,
  createTokenizer,
  defaultPlugins,
  type Model,
  platform,
  reference,
  wasm,
} from "./index.ts";

// Sharing passes must not change a bit, in either backend and build, for any kind of layer.

const backends = {
  reference: reference(),
  simd128: wasm({ variant: "simd128" }),
  relaxed: wasm({ variant: "relaxed" }),
};

const experts = { count: 4, used: 2, feedForwardSize: 64 };
const models: Readonly<Record<string, TinyModelOptions>> = {
  llama: { architecture: "llama", type: Q8_0 },
  "llama with Q4_K": { architecture: "llama", embeddingSize: 256, feedForwardSize: 256, type: Q4_K },
  "llama in f32": { architecture: "llama", type: F32 },
  qwen3moe: { architecture: "qwen3moe", experts, type: Q8_0 },
  gemma2: { architecture: "gemma2", type: Q8_0 },
  gemma3: { architecture: "gemma3", type: Q8_0 },
  gpt2: { architecture: "gpt2" },
};

/** Texts of lengths around pages and tiles. */
const texts = [1, 2, 5, 31, 33, 47, 64, 90].map((length, t) =>
  Array.from({ length }, (_, i) => 3 + ((i * 37 + t * 11 + i * i) % 300)),
);

const bytesOf = (logits: Float32Array = new Float32Array(0)): Uint8Array =>
  new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength);

describe("logits and texts are the same bits alone and together", () => {
  for (const [kind, backend] of Object.entries(backends)) {
    it.each(Object.entries(models))(`${kind}: %s`, async (_, options) => {
      const engine = createEngine({
        platform: platform(),
        backends: [backend],
        plugins: defaultPlugins(),
        architectures,
        createTokenizer,
      });
      const bytes = await tinyModelBytes(options);
      // Room for three full contexts: some texts wait, and some give their pages up.
      await using model: Model = await engine.load(bytes, { sequences: 3 });
      const write = (prompt: readonly number[]) =>
        model.complete({ prompt, temperature: 0, maxTokens: 12 }).then(({ tokens }) => tokens);
      const alone = [];
      for (const text of texts) alone.push({ logits: await model.forward(text), tokens: await write(text) });
      const passes = model.status().passes;
      const [logits, tokens] = await Promise.all([
        Promise.all(texts.map((text) => model.forward(text))),
        Promise.all(texts.map(write)),
      ]);
      for (const [i, expected] of alone.entries()) {
        expect(Buffer.compare(bytesOf(expected.logits), bytesOf(logits[i]))).toBe(0);
        expect(tokens[i]).toEqual(expected.tokens);
      }
      expect(model.status().passes - passes).toBeLessThan(passes / 2);
    });
  }
});
