import { describe, expect, it } from "vitest";
import { ggufArchitectures, modelConfig } from "./index.ts";

type Values = Readonly<Record<string, unknown>>;

/** Metadata of a small model; undefined removes a key. */
function metadata(architecture: string, values: Values = {}): Map<string, unknown> {
  const all: Values = {
    context_length: 4096,
    embedding_length: 64,
    block_count: 3,
    feed_forward_length: 96,
    "attention.head_count": 8,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.layer_norm_epsilon": 1e-5,
    vocab_size: 100,
    ...values,
  };
  const entries = Object.entries(all).filter(([, value]) => value !== undefined);
  return new Map([
    ["general.architecture", architecture],
    ...entries.map(([key, value]): [string, unknown] => [`${architecture}.${key}`, value]),
  ]);
}

const shapes =
  (known: Readonly<Record<string, readonly number[]>>) =>
  (role: string): readonly number[] | undefined =>
    known[role];
const config = (architecture: string, values?: Values, known = {}): ReturnType<typeof modelConfig> =>
  modelConfig(metadata(architecture, values), shapes(known));

describe("common keys", () => {
  it("have llama.cpp's defaults", () => {
    expect(config("llama")).toEqual({
      architecture: "llama",
      contextLength: 4096,
      vocabularySize: 100,
      embeddingSize: 64,
      layers: 3,
      feedForwardSize: 96,
      heads: 8,
      kvHeads: 8,
      keySize: 8,
      valueSize: 8,
      normEpsilon: 1e-6,
      rope: { dimensions: 8, base: 10000, pairing: "adjacent" },
    });
  });

  it("are taken where they stand", () => {
    expect(
      config("qwen3", {
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 12,
        "rope.dimension_count": 4,
        "rope.freq_base": 1e6,
        pooling_type: 3,
      }),
    ).toMatchObject({
      kvHeads: 2,
      keySize: 16,
      valueSize: 12,
      rope: { dimensions: 4, base: 1e6, pairing: "halves" },
      pooling: "last",
    });
  });

  it("take the vocabulary from the embedding, else from a key, else from the tokens", () => {
    expect(config("llama", {}, { embed: [128, 64] }).vocabularySize).toBe(128);
    const tokens = metadata("llama", { vocab_size: undefined });
    tokens.set("tokenizer.ggml.tokens", ["a", "b"]);
    expect(modelConfig(tokens, () => undefined).vocabularySize).toBe(2);
    expect(() => config("llama", {}, { embed: [128, 63] })).toThrow(/128 × 63.*tokens × 64/);
  });

  it("may be arrays that say the same for every layer", () => {
    const arrays = {
      "attention.head_count_kv": Int32Array.of(4, 4, 4),
      feed_forward_length: Uint32Array.of(8, 8, 8),
    };
    expect(config("llama", arrays)).toMatchObject({ kvHeads: 4, feedForwardSize: 8 });
    expect(() => config("llama", { feed_forward_length: Uint32Array.of(8, 8, 9) })).toThrow(
      expect.objectContaining({ code: "architecture-unsupported", reason: "per-layer-sizes" }),
    );
  });

  it.each([
    ["context_length"],
    ["embedding_length"],
    ["block_count"],
    ["feed_forward_length"],
    ["attention.head_count"],
    ["attention.layer_norm_rms_epsilon"],
  ])("%s is required", (key) => {
    expect(() => config("llama", { [key]: undefined })).toThrow(
      expect.objectContaining({
        code: "file-corrupt",
        reason: "missing-metadata",
        message: expect.stringContaining(`llama.${key}`),
      }),
    );
  });

  it.each<[string, unknown]>([
    ["context_length", 0],
    ["context_length", "4096"],
    ["embedding_length", 1.5],
    ["embedding_length", 2 ** 31],
    ["embedding_length", 2n ** 60n],
    ["block_count", 1e6],
    ["attention.head_count", 0],
    ["attention.head_count", 7],
    ["attention.head_count", []],
    ["attention.head_count_kv", 3],
    ["attention.head_count_kv", 16],
    ["attention.layer_norm_rms_epsilon", Number.NaN],
    ["attention.layer_norm_rms_epsilon", -1],
    ["attention.causal", 1],
    ["rope.dimension_count", 7],
    ["rope.dimension_count", 10],
    ["rope.freq_base", 0],
    ["rope.scaling.type", 3],
    ["rope.scaling.factor", Number.POSITIVE_INFINITY],
  ])("%s = %s is refused by name", (key, value) => {
    // An empty per-layer array says nothing, so it counts as absent.
    const reason = Array.isArray(value) ? "missing-metadata" : "invalid-value";
    expect(() => config("llama", { [key]: value })).toThrow(
      expect.objectContaining({
        code: "file-corrupt",
        reason,
        message: expect.stringContaining(`llama.${key}`),
      }),
    );
  });
});

describe("general.architecture", () => {
  it("is required and must be known", () => {
    expect(() => modelConfig(new Map(), () => undefined)).toThrow(
      expect.objectContaining({ code: "file-corrupt", reason: "missing-metadata" }),
    );
    for (const unknown of ["mamba", "constructor", "__proto__"]) {
      expect(() => config(unknown)).toThrow(
        expect.objectContaining({ code: "architecture-unsupported", reason: "unknown-architecture" }),
      );
    }
    expect(() => modelConfig(new Map([["general.architecture", 3]]), () => undefined)).toThrow(
      expect.objectContaining({ reason: "invalid-value" }),
    );
  });

  it("decides how dimensions pair", () => {
    const experts = { expert_count: 4, expert_used_count: 2 };
    const pairing = new Map(ggufArchitectures.map((name) => [name, config(name, experts).rope?.pairing]));
    const adjacent = ["llama", "mistral3"];
    const none = ["gpt2", "bert"];
    for (const [name, found] of pairing) {
      expect([name, found]).toEqual([
        name,
        none.includes(name) ? undefined : adjacent.includes(name) ? "adjacent" : "halves",
      ]);
    }
  });

  it("decides which epsilon counts", () => {
    expect(config("gpt2").normEpsilon).toBe(1e-5);
    expect(config("bert")).toMatchObject({ normEpsilon: 1e-5, causal: false });
    expect(config("phi3").normEpsilon).toBe(1e-6);
  });
});

describe("experts", () => {
  const two = { expert_count: 4, expert_used_count: 2 };
  it("of llama have the dense width and normalised weights", () => {
    expect(config("llama", two).experts).toEqual({
      count: 4,
      used: 2,
      feedForwardSize: 96,
      normalizeWeights: true,
    });
    expect(config("llama", { expert_count: 0 }).experts).toBeUndefined();
  });

  it("of Qwen have their own width", () => {
    const sizes = { ...two, expert_feed_forward_length: 24, expert_shared_feed_forward_length: 40 };
    expect(config("qwen2moe", sizes).experts).toEqual({
      count: 4,
      used: 2,
      feedForwardSize: 24,
      sharedFeedForwardSize: 40,
      normalizeWeights: false,
    });
    expect(config("qwen2moe", two).experts).toMatchObject({ feedForwardSize: 48, sharedFeedForwardSize: 96 });
    const qwen3 = config("qwen3moe", { ...sizes, expert_shared_feed_forward_length: undefined }).experts;
    expect(qwen3).toEqual({ count: 4, used: 2, feedForwardSize: 24, normalizeWeights: true });
  });

  it.each([
    ["qwen3moe", {}, "missing-metadata"],
    ["qwen3moe", { expert_count: 0, expert_used_count: 0 }, "invalid-value"],
    ["llama", { expert_count: 4 }, "missing-metadata"],
    ["llama", { expert_count: 4, expert_used_count: 5 }, "invalid-value"],
    ["llama", { expert_count: 4, expert_used_count: 0 }, "invalid-value"],
  ])("%s with %o is refused: %s", (architecture, values, reason) => {
    expect(() => config(architecture, values)).toThrow(
      expect.objectContaining({ code: "file-corrupt", reason }),
    );
  });
});

describe("rope scaling", () => {
  const scaling = (values: Values, known = {}, architecture = "llama"): unknown =>
    config(architecture, values, known).rope?.scaling;

  it("is absent without a factor", () => {
    expect(scaling({})).toBeUndefined();
    expect(scaling({ "rope.scaling.type": "none", "rope.scaling.factor": 4 })).toBeUndefined();
    expect(scaling({ "rope.scaling.factor": 0 })).toBeUndefined();
  });

  it("is linear by default, also under its old name", () => {
    expect(scaling({ "rope.scaling.factor": 4 })).toEqual({ kind: "linear", factor: 4 });
    expect(scaling({ "rope.scale_linear": 2 })).toEqual({ kind: "linear", factor: 2 });
  });

  it("reads YaRN with its defaults", () => {
    const yarn = { "rope.scaling.type": "yarn", "rope.scaling.factor": 4 };
    expect(scaling({ ...yarn, "rope.scaling.original_context_length": 1024 })).toEqual({
      kind: "yarn",
      factor: 4,
      originalContextLength: 1024,
      extrapolationFactor: 1,
      attentionFactor: 1,
      betaFast: 32,
      betaSlow: 1,
    });
    // A log multiplier of 1 takes YaRN's own magnitude back.
    const flat = scaling({ ...yarn, "rope.scaling.yarn_log_multiplier": 1 }, {}, "mistral3");
    expect(flat).toMatchObject({ attentionFactor: 1 / (1 + 0.1 * Math.log(4)) });
  });

  it("comes from tensors where there are any", () => {
    expect(scaling({}, { "rope.factors": [4] })).toEqual({ kind: "factors" });
    const long = { "rope.factors.long": [4], "rope.factors.short": [4] };
    const keys = { "rope.scaling.original_context_length": 512, "rope.scaling.attn_factor": 1.2 };
    expect(scaling(keys, long, "phi3")).toEqual({
      kind: "factors",
      originalContextLength: 512,
      attentionFactor: 1.2,
    });
    expect(() => scaling({ "rope.scaling.factor": 4 }, { "rope.factors": [4] })).toThrow(
      /both a factor of 4/,
    );
  });

  it("refuses kinds that it does not know", () => {
    expect(() => scaling({ "rope.scaling.type": "dynamic" })).toThrow(
      expect.objectContaining({ code: "architecture-unsupported", reason: "rope-scaling" }),
    );
  });
});

describe("families", () => {
  it("gemma 2 has caps and alternating windows", () => {
    expect(config("gemma2")).toMatchObject({
      slidingWindow: 4096,
      slidingPattern: 2,
      attentionSoftcap: 50,
      finalSoftcap: 30,
    });
    expect(config("gemma2").attentionScale).toBeUndefined();
    const big = {
      block_count: 46,
      embedding_length: 4608,
      "attention.head_count": 32,
      "attention.key_length": 128,
    };
    expect(config("gemma2", { ...big, "attention.value_length": 128 }).attentionScale).toBe(1 / 12);
  });

  it("gemma 3 has five local layers of six, with a base of their own", () => {
    const gemma = config("gemma3", {
      "attention.sliding_window": 512,
      "rope.freq_base": 1e6,
      "rope.scaling.factor": 8,
    });
    expect(gemma).toMatchObject({
      slidingWindow: 512,
      slidingPattern: 6,
      rope: { base: 1e6, localBase: 10_000, scaling: { kind: "linear", factor: 8 } },
    });
    expect(gemma.finalSoftcap).toBeUndefined();
    const big = {
      block_count: 62,
      embedding_length: 5376,
      "attention.head_count": 32,
      "attention.key_length": 128,
    };
    expect(config("gemma3", { ...big, "attention.value_length": 128 }).attentionScale).toBe(
      1 / Math.sqrt(168),
    );
  });

  it("mistral 3 ends where queries would need scaling by position", () => {
    const scaled = { "attention.temperature_scale": 0.1, "rope.scaling.original_context_length": 1024 };
    expect(config("mistral3", scaled).contextLength).toBe(1024);
    expect(config("mistral3").contextLength).toBe(4096);
  });

  it("phi 3's window is ignored, as in llama.cpp", () => {
    expect(config("phi3", { "attention.sliding_window": 2047 }).slidingWindow).toBeUndefined();
  });

  it("bitnet runs with silu or squared relu", () => {
    expect(config("bitnet", { hidden_act: "silu" }).activation).toBeUndefined();
    expect(config("bitnet", { hidden_act: "relu2" }).activation).toBe("relu-squared");
    expect(() => config("bitnet", { hidden_act: "mish" })).toThrow(/mish/);
  });
});
