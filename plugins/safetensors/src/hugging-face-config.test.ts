import { LowbitError } from "@lowbit/core";
import { fuzzCases, random } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { common, config, corrupt, type Fields, parse, unsupported } from "../test/config-kit.ts";
import { huggingFaceModel } from "./index.ts";

describe("common fields", () => {
  it("have the defaults of transformers", () => {
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
      normEpsilon: Math.fround(1e-5),
      rope: { dimensions: 8, base: 10_000, pairing: "adjacent" },
    });
    expect(config("phi3", { rms_norm_eps: undefined }).normEpsilon).toBe(Math.fround(1e-5));
    expect(config("qwen3", { rms_norm_eps: null }).normEpsilon).toBe(Math.fround(1e-6));
    expect(config("mistral").kvHeads).toBe(8);
  });

  it.each([
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "vocab_size",
    "model_type",
  ])("%s is required", (name) => {
    expect(() => config("llama", { [name]: undefined })).toThrow(corrupt("missing-metadata", name));
    expect(() => config("llama", { [name]: null })).toThrow(corrupt("missing-metadata", name));
  });

  it.each<[string, unknown]>([
    ["hidden_size", 0],
    ["hidden_size", 1.5],
    ["hidden_size", 2 ** 31],
    ["hidden_size", "64"],
    ["num_hidden_layers", 1e6],
    ["num_attention_heads", 7],
    ["num_attention_heads", -8],
    ["num_key_value_heads", 3],
    ["num_key_value_heads", 16],
    ["head_dim", 0.5],
    ["vocab_size", 2 ** 40],
    ["max_position_embeddings", []],
    ["rms_norm_eps", 0],
    ["rms_norm_eps", 1e300],
    ["rms_norm_eps", true],
    ["rope_theta", -1],
    ["rope_theta", {}],
    ["tie_word_embeddings", 1],
    ["hidden_act", 3],
    ["rope_scaling", 3],
    ["rope_scaling", []],
    ["model_type", {}],
    ["partial_rotary_factor", 2],
    ["sliding_window", -1],
    ["layer_types", "full_attention"],
    ["layer_types", ["full_attention"]],
  ])("%s = %j is refused by name", (name, value) => {
    expect(() => config("llama", { [name]: value })).toThrow(corrupt("invalid-value", name));
  });

  it("are named in a family's own words", () => {
    const gpt2 = { n_embd: 64, n_layer: 2, n_head: 4, n_positions: 128, vocab_size: 9 };
    expect(huggingFaceModel(parse({ model_type: "gpt2", ...gpt2 })).config).toEqual({
      architecture: "gpt2",
      contextLength: 128,
      vocabularySize: 9,
      embeddingSize: 64,
      layers: 2,
      feedForwardSize: 256,
      heads: 4,
      kvHeads: 4,
      keySize: 16,
      valueSize: 16,
      normEpsilon: Math.fround(1e-5),
    });
    expect(() => huggingFaceModel(parse({ model_type: "gpt2", ...gpt2, n_head: 0 }))).toThrow(
      corrupt("invalid-value", "n_head"),
    );
    for (const field of [{ scale_attn_weights: false }, { scale_attn_by_inverse_layer_idx: true }]) {
      expect(() => huggingFaceModel(parse({ model_type: "gpt2", ...gpt2, ...field }))).toThrow(
        unsupported("unsupported-variant"),
      );
    }
  });

  it("name architectures that are not known", () => {
    for (const unknown of ["mamba", "constructor", "__proto__", "toString"]) {
      expect(() => config(unknown)).toThrow(unsupported("unknown-architecture"));
    }
  });
});

describe("activations", () => {
  it("are told where they are not the family's own", () => {
    expect(config("llama", { hidden_act: "silu" }).activation).toBeUndefined();
    expect(config("llama", { hidden_act: "gelu" }).activation).toBe("gelu");
    expect(config("llama", { hidden_act: "gelu_new" }).activation).toBe("gelu-tanh");
    expect(config("bitnet", { hidden_act: "relu2" }).activation).toBe("relu-squared");
    // The first gemma's files say "gelu" and mean the approximation; later ones have a second field, which counts.
    expect(config("gemma", { hidden_act: "gelu" }).activation).toBeUndefined();
    expect(
      config("gemma2", { hidden_act: "silu", hidden_activation: "gelu_pytorch_tanh" }).activation,
    ).toBeUndefined();
    expect(() => config("llama", { hidden_act: "mish" })).toThrow(unsupported("unknown-activation"));
    expect(() => config("gpt2", { ...gpt2Sizes, activation_function: "relu" })).toThrow(
      unsupported("unknown-activation"),
    );
  });
});
const gpt2Sizes = { n_embd: 64, n_layer: 2, n_head: 4, n_positions: 128 };

describe("windows", () => {
  const types = (...words: string[]): string[] => words.map((word) => `${word}_attention`);

  it.each<[string, Fields, Fields]>([
    ["mistral", { sliding_window: 512 }, { slidingWindow: 512 }],
    ["mistral", { sliding_window: null }, {}],
    ["phi3", { sliding_window: 2047 }, { slidingWindow: 2047 }],
    ["qwen2", { sliding_window: 512 }, {}],
    ["qwen2", { sliding_window: 512, use_sliding_window: true, max_window_layers: 3 }, {}],
    [
      "qwen2",
      { sliding_window: 512, use_sliding_window: true, max_window_layers: 0 },
      { slidingWindow: 512 },
    ],
    // Only the upper layers: no architecture has that, so the context ends where it would matter.
    [
      "qwen2",
      { sliding_window: 512, use_sliding_window: true, max_window_layers: 2 },
      { contextLength: 512 },
    ],
    ["gemma2", {}, { slidingWindow: 4096, slidingPattern: 2 }],
    ["gemma3_text", { sliding_window: 512 }, { slidingWindow: 512, slidingPattern: 6 }],
    [
      "gemma3_text",
      { sliding_window: 512, _sliding_window_pattern: 3 },
      { slidingWindow: 512, slidingPattern: 3 },
    ],
    [
      "gemma3_text",
      { sliding_window: 512, layer_types: types("sliding", "full", "sliding") },
      { slidingWindow: 512, slidingPattern: 2 },
    ],
    ["gemma3_text", { sliding_window: 512, layer_types: types("full", "full", "full") }, {}],
    ["llama", { sliding_window: 512, layer_types: types("full", "sliding", "full") }, { contextLength: 512 }],
  ])("%s %j", (type, fields, expected) => {
    const { slidingWindow, slidingPattern, contextLength } = config(type, fields);
    expect({ slidingWindow, slidingPattern, contextLength }).toEqual({
      slidingWindow: undefined,
      slidingPattern: undefined,
      contextLength: 4096,
      ...expected,
    });
  });

  it("that no architecture has are refused", () => {
    for (const layer_types of [types("full", "sliding", "full"), types("full", "chunked", "full")]) {
      expect(() => config("gemma3_text", { sliding_window: 512, layer_types })).toThrow(
        unsupported("unsupported-variant"),
      );
    }
    expect(() => config("llama", { layer_types: types("sliding", "sliding", "sliding") })).toThrow(
      corrupt("missing-metadata", "sliding_window"),
    );
    expect(() => config("gemma3_text", { use_bidirectional_attention: true })).toThrow(
      unsupported("unsupported-variant"),
    );
  });
});

describe("mixtures", () => {
  const experts = { num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 24 };

  it("have their sizes where each family keeps them", () => {
    expect(config("mixtral", { num_local_experts: 8, num_experts_per_tok: 2 }).experts).toEqual({
      count: 8,
      used: 2,
      feedForwardSize: 96,
      normalizeWeights: true,
    });
    const shared = { shared_expert_intermediate_size: 40 };
    expect(config("qwen2_moe", { ...experts, ...shared }).experts).toEqual({
      count: 8,
      used: 2,
      feedForwardSize: 24,
      sharedFeedForwardSize: 40,
      normalizeWeights: false,
    });
    expect(config("qwen3_moe", { ...experts, norm_topk_prob: true }).experts?.normalizeWeights).toBe(true);
  });

  it("with dense layers in between, or sizes that cannot be, are refused", () => {
    for (const more of [{ decoder_sparse_step: 2 }, { mlp_only_layers: [0] }]) {
      expect(() => config("qwen3_moe", { ...experts, ...more })).toThrow(unsupported("unsupported-variant"));
    }
    for (const more of [{ num_experts_per_tok: 9 }, { num_experts: 1e6 }, { moe_intermediate_size: 0 }]) {
      const [name = ""] = Object.keys(more);
      expect(() => config("qwen3_moe", { ...experts, ...more })).toThrow(corrupt("invalid-value", name));
    }
  });
});

describe("attention's scale and caps", () => {
  it("follow gemma's fields", () => {
    expect(config("gemma2", { head_dim: 128, query_pre_attn_scalar: 144 })).toMatchObject({
      attentionScale: 1 / 12,
      attentionSoftcap: 50,
      finalSoftcap: 30,
    });
    const gemma3 = config("gemma3_text", { query_pre_attn_scalar: 256 });
    expect(gemma3).toMatchObject({ keySize: 256, rope: { base: 1e6, localBase: 10_000 } });
    for (const key of ["attentionScale", "attentionSoftcap", "finalSoftcap"])
      expect(gemma3).not.toHaveProperty(key);
    expect(() => config("gemma2", { query_pre_attn_scalar: 0 })).toThrow(
      corrupt("invalid-value", "query_pre_attn_scalar"),
    );
  });

  it("are gemma 3's own where a multimodal file leaves them out", () => {
    const text_config = {
      hidden_size: 2560,
      intermediate_size: 10_240,
      model_type: "gemma3_text",
      num_hidden_layers: 34,
      rope_scaling: { factor: 8, rope_type: "linear" },
      sliding_window: 1024,
    };
    const { config: gemma3, tied } = huggingFaceModel(parse({ model_type: "gemma3", text_config }));
    expect(tied).toBe(true);
    expect(gemma3).toEqual({
      architecture: "gemma3",
      contextLength: 131_072,
      vocabularySize: 262_208,
      embeddingSize: 2560,
      layers: 34,
      feedForwardSize: 10_240,
      heads: 8,
      kvHeads: 4,
      keySize: 256,
      valueSize: 256,
      normEpsilon: Math.fround(1e-6),
      rope: {
        dimensions: 256,
        base: 1e6,
        localBase: 10_000,
        pairing: "halves",
        scaling: { kind: "linear", factor: 8 },
      },
      slidingWindow: 1024,
      slidingPattern: 6,
    });
  });
});

describe("damaged configurations", () => {
  const whole: readonly Fields[] = [
    { model_type: "llama", rope_scaling: { rope_type: "yarn", factor: 2 } },
    { model_type: "gemma3_text", sliding_window: 9, layer_types: Array(3).fill("sliding_attention") },
    { model_type: "qwen2_moe", num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 8 },
    {
      model_type: "phi3",
      rope_scaling: { type: "su", long_factor: [1, 1, 1, 1], short_factor: [1, 1, 1, 1] },
    },
    {
      model_type: "llama",
      rope_parameters: {
        rope_type: "llama3",
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 64,
      },
    },
  ];
  const values: readonly unknown[] = [
    null,
    0,
    -1,
    1,
    0.5,
    1e-300,
    1e300,
    2 ** 31,
    2 ** 53,
    "",
    "silu",
    true,
    [],
    [1, "2", null],
    {},
    { rope_type: "llama3" },
    { full_attention: { factor: "x" } },
  ];

  it("end in a configuration with possible sizes, or a LowbitError", () => {
    const next = random(7);
    const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)] as T;
    const runs = fuzzCases(500);
    let read = 0;
    for (let run = 0; run < runs; run++) {
      const fields: Record<string, unknown> = structuredClone({ ...common, ...pick(whole) });
      for (let changes = 1 + Math.floor(next() * 2); changes > 0; changes--) {
        const nested = pick([fields, fields.rope_scaling, fields.rope_parameters].filter(isObject));
        nested[pick(Object.keys(nested)) ?? "x"] = structuredClone(pick(values));
      }
      try {
        const { config, vectors } = huggingFaceModel(parse(fields));
        read++;
        const sizes = [
          config.contextLength,
          config.layers,
          config.heads,
          config.keySize,
          config.feedForwardSize,
        ];
        expect(sizes.every((size) => Number.isSafeInteger(size) && size > 0)).toBe(true);
        for (const vector of vectors.values()) {
          expect(vector.every((value) => value > 0 && Number.isFinite(value))).toBe(true);
        }
      } catch (error) {
        if (!LowbitError.is(error)) throw error;
      }
    }
    expect(read).toBeGreaterThan(runs / 20);
  });
});

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
