import type { ModelConfig } from "@lowbit/core";
import { describe, expect, it } from "vitest";
import { modelConfig } from "./index.ts";
import { writeConfig } from "./write-config.ts";

const base: ModelConfig = {
  architecture: "llama",
  contextLength: 4096,
  vocabularySize: 100,
  embeddingSize: 64,
  layers: 2,
  feedForwardSize: 96,
  heads: 4,
  kvHeads: 2,
  keySize: 16,
  valueSize: 16,
  normEpsilon: 1e-5,
  rope: { dimensions: 16, base: 10_000, pairing: "adjacent" },
};
const halves: ModelConfig["rope"] = { dimensions: 16, base: 1e6, pairing: "halves" };
const gemma: ModelConfig = {
  ...base,
  architecture: "gemma3",
  rope: { dimensions: 16, base: 1e6, pairing: "halves", localBase: 5000 },
};

const keysOf = (config: ModelConfig) => writeConfig(config).metadata;

function readBack(config: ModelConfig): ModelConfig {
  const { metadata, vectors } = writeConfig(config);
  const plain = new Map([...metadata].map(([key, { value }]) => [key, value]));
  return modelConfig(plain, (role) => (vectors.has(role) ? [vectors.get(role)?.length ?? 0] : undefined));
}

describe("a configuration as keys", () => {
  it.each<[string, ModelConfig]>([
    ["llama", { ...base, name: "some model" }],
    ["mistral3", { ...base, architecture: "mistral3" }],
    ["experts", { ...base, experts: { count: 8, used: 2, feedForwardSize: 48, normalizeWeights: true } }],
    [
      "a shared expert",
      {
        ...base,
        architecture: "qwen2moe",
        rope: halves,
        experts: {
          count: 8,
          used: 2,
          feedForwardSize: 48,
          sharedFeedForwardSize: 80,
          normalizeWeights: false,
        },
      },
    ],
    [
      "wide heads",
      { ...base, architecture: "qwen3", keySize: 32, valueSize: 32, rope: { ...halves, dimensions: 32 } },
    ],
    [
      "soft caps",
      {
        ...gemma,
        architecture: "gemma2",
        rope: halves,
        slidingWindow: 9,
        slidingPattern: 2,
        attentionSoftcap: 30,
        finalSoftcap: 20,
      },
    ],
    ["windows", { ...gemma, slidingWindow: 512, slidingPattern: 6 }],
    [
      "scaled windows",
      {
        ...gemma,
        slidingWindow: 512,
        slidingPattern: 5,
        rope: { ...(gemma.rope as typeof halves), scaling: { kind: "linear", factor: 8 } },
      },
    ],
    ["squared relu", { ...base, architecture: "bitnet", rope: halves, activation: "relu-squared" }],
    ["an embedder", { ...base, architecture: "qwen3", rope: halves, pooling: "last", causal: false }],
  ] as [string, ModelConfig][])("%s", (_, config) => {
    const rounded = { ...config, normEpsilon: Math.fround(config.normEpsilon) };
    expect(readBack(config)).toEqual(rounded);
  });

  it("architectures have GGUF's names", () => {
    expect(keysOf({ ...base, architecture: "mistral" }).get("general.architecture")?.value).toBe("llama");
    expect(keysOf({ ...base, architecture: "mixtral" }).get("llama.block_count")?.value).toBe(2);
  });

  it("llama 3's scaling becomes divisors, as llama.cpp's converter has them", () => {
    const scaling = {
      kind: "llama3",
      factor: 32,
      originalContextLength: 8192,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
    } as const;
    const rope = { dimensions: 64, base: 500_000, pairing: "adjacent", scaling } as const;
    const { vectors } = writeConfig({ ...base, embeddingSize: 256, keySize: 64, valueSize: 64, rope });
    const factors = vectors.get("rope.factors") as Float32Array;
    expect(factors.length).toBe(32);
    // Frequencies of Llama 3.2 1B: the first turn as before, the last 32 times slower, between them a blend.
    expect([...factors.subarray(0, 15)]).toEqual(new Array(15).fill(1));
    expect([...factors.subarray(18)]).toEqual(new Array(14).fill(32));
    const wavelength = 2 * Math.PI * 500_000 ** (32 / 64);
    const smooth = (8192 / wavelength - 1) / 3;
    expect(factors[16]).toBeCloseTo(1 / ((1 - smooth) / 32 + smooth), 5);
  });

  it("a window that the family has no key for ends the context", () => {
    expect(readBack({ ...base, slidingWindow: 1024 })).toEqual({
      ...base,
      contextLength: 1024,
      normEpsilon: Math.fround(1e-5),
    });
    expect(readBack({ ...base, slidingWindow: 8192 }).contextLength).toBe(4096);
  });

  it.each<[string, Partial<ModelConfig>, RegExp]>([
    ["another architecture", { architecture: "falcon" }, /"falcon"/],
    ["another pairing", { rope: halves }, /rope\.pairing/],
    ["another activation", { activation: "gelu" }, /activation/],
    ["another scale of attention", { attentionScale: 0.5 }, /attentionScale/],
    ["a cap that is not read", { attentionSoftcap: 50 }, /attentionSoftcap/],
    [
      "probabilities of experts as they are",
      { experts: { count: 4, used: 2, feedForwardSize: 96, normalizeWeights: false } },
      /normalizeWeights/,
    ],
  ])("%s is refused", (_, change, message) => {
    const write = () => writeConfig({ ...base, ...change });
    expect(write).toThrow(message);
    expect(write).toThrow(expect.objectContaining({ code: "format-unsupported", reason: "config" }) as Error);
  });
});
