import { type Checkpoint, dequantize } from "@lowbit/core";
import { BF16, F16 } from "@lowbit/gguf";
import { type TinyModelOptions, trackedFiles } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { referenceLogits } from "../test/convert.ts";
import { tinyConfig, tinyFolder } from "../test/hugging-face-tiny.ts";
import { safetensorsFormat } from "./index.ts";

const format = safetensorsFormat();
const tokens = [1, 260, 300, 17, 200, 5, 299, 2, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55];
const mixture = { count: 4, used: 2 } as const;
const yarn = { kind: "yarn", factor: 4, originalContextLength: 32 } as const;
const longrope = { kind: "longrope", originalContextLength: 96 } as const;
const rising = (step: number): number[] => Array.from({ length: 8 }, (_, i) => 1 + step * i);

/** A model, and what its config.json says beside the common fields. */
const cases: readonly (readonly [string, TinyModelOptions, Record<string, unknown>])[] = [
  ["llama", { architecture: "llama" }, { model_type: "llama", rope_scaling: null }],
  ["llama, f16", { architecture: "llama", type: F16 }, { model_type: "llama" }],
  ["llama, bf16", { architecture: "llama", type: BF16 }, { model_type: "llama" }],
  ["llama, tied", { architecture: "llama", tied: true }, { model_type: "llama" }],
  [
    "llama, wide heads",
    { architecture: "llama", keySize: 24 },
    { model_type: "llama", rope_parameters: { rope_type: "default", rope_theta: 10_000 } },
  ],
  ["mistral", { architecture: "llama", ropeBase: 1e6 }, { model_type: "mistral", sliding_window: null }],
  ["mixtral", { architecture: "llama", experts: mixture }, { model_type: "mixtral", num_local_experts: 4 }],
  [
    "qwen2",
    { architecture: "qwen2" },
    { model_type: "qwen2", use_sliding_window: false, sliding_window: 64 },
  ],
  [
    "qwen2_moe",
    { architecture: "qwen2moe", experts: mixture },
    {
      model_type: "qwen2_moe",
      num_experts: 4,
      moe_intermediate_size: 48,
      shared_expert_intermediate_size: 56,
      norm_topk_prob: false,
      decoder_sparse_step: 1,
      mlp_only_layers: [],
    },
  ],
  ["qwen3", { architecture: "qwen3", keySize: 24 }, { model_type: "qwen3", attention_bias: false }],
  [
    "qwen3_moe",
    { architecture: "qwen3moe", experts: mixture },
    { model_type: "qwen3_moe", num_experts: 4, moe_intermediate_size: 48, norm_topk_prob: true },
  ],
  ["gemma", { architecture: "gemma" }, { model_type: "gemma", hidden_act: "gelu_pytorch_tanh" }],
  [
    "gemma2",
    { architecture: "gemma2", layers: 4 },
    {
      model_type: "gemma2",
      hidden_activation: "gelu_pytorch_tanh",
      sliding_window: 8,
      attn_logit_softcapping: 5,
      final_logit_softcapping: 6,
      query_pre_attn_scalar: 16,
    },
  ],
  [
    "gemma3_text",
    { architecture: "gemma3", layers: 7, ropeBase: 1e6 },
    {
      model_type: "gemma3_text",
      hidden_activation: "gelu_pytorch_tanh",
      sliding_window: 8,
      sliding_window_pattern: 6,
      rope_local_base_freq: 10_000,
      query_pre_attn_scalar: 16,
    },
  ],
  [
    "gemma3_text, layer by layer",
    { architecture: "gemma3", layers: 7, ropeBase: 1e6 },
    {
      model_type: "gemma3_text",
      sliding_window: 8,
      layer_types: Array.from({ length: 7 }, (_, i) => (i === 5 ? "full_attention" : "sliding_attention")),
      rope_theta: null,
      rope_parameters: {
        full_attention: { rope_type: "default", rope_theta: 1e6 },
        sliding_attention: { rope_type: "default", rope_theta: 10_000 },
      },
      query_pre_attn_scalar: 16,
    },
  ],
  ["phi3", { architecture: "phi3" }, { model_type: "phi3", sliding_window: null }],
  [
    "phi3, longrope",
    {
      architecture: "phi3",
      ropeScaling: { ...longrope, attentionFactor: Math.sqrt(1 + Math.log(128 / 96) / Math.log(96)) },
    },
    {
      model_type: "phi3",
      original_max_position_embeddings: 96,
      rope_scaling: { type: "longrope", long_factor: rising(0.7), short_factor: rising(0.1) },
    },
  ],
  [
    "phi3, its first longrope",
    { architecture: "phi3", ropeScaling: { ...longrope, attentionFactor: 1.25 } },
    {
      model_type: "phi3",
      original_max_position_embeddings: 96,
      rope_scaling: {
        type: "su",
        long_factor: rising(0.7),
        short_factor: rising(0.1),
        attention_factor: 1.25,
      },
    },
  ],
  [
    "gpt2",
    { architecture: "gpt2" },
    {
      model_type: "gpt2",
      n_embd: 64,
      n_layer: 2,
      n_head: 4,
      n_inner: 96,
      n_positions: 128,
      layer_norm_epsilon: 1e-5,
      activation_function: "gelu_new",
      tie_word_embeddings: true,
    },
  ],
  [
    "bitnet",
    { architecture: "bitnet" },
    { model_type: "bitnet", hidden_act: "silu", tie_word_embeddings: true },
  ],
  [
    "linear",
    { architecture: "llama", ropeScaling: { kind: "linear", factor: 2.5 } },
    { model_type: "llama", rope_scaling: { type: "linear", factor: 2.5 } },
  ],
  [
    "yarn",
    { architecture: "qwen2", ropeScaling: yarn },
    {
      model_type: "qwen2",
      rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32 },
    },
  ],
  [
    "llama3",
    { architecture: "llama", ropeScaling: { kind: "llama3", factor: 4, originalContextLength: 32 } },
    {
      model_type: "llama",
      rope_scaling: {
        rope_type: "llama3",
        factor: 4,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 32,
      },
    },
  ],
];

async function same(folder: Checkpoint, gguf: Checkpoint): Promise<void> {
  const { name: _, ...config } = gguf.config;
  expect(folder.config).toEqual(config);
  expect(await referenceLogits(folder, tokens)).toEqual(await referenceLogits(gguf, tokens));
}

describe("a folder has the configuration and, to the last bit, the logits of the same model in GGUF", () => {
  it.each(cases)("%s", async (_, options, own) => {
    // What a family names otherwise is not in its files.
    const common = own.model_type === "gpt2" ? { vocab_size: 320 } : tinyConfig(options);
    const experts = options.experts && { num_experts_per_tok: options.experts.used };
    const { gguf, files } = await tinyFolder(options, { ...common, ...experts, ...own });
    await same(await format.open(trackedFiles(files)), gguf);
  });

  it.each([
    ["a body without a head", { tied: true }, /^model\./, ""],
    ["inside of a multimodal model, older", {}, /^(model|lm_head)/, "language_model.$1"],
    ["inside of a multimodal model", {}, /^model\./, "model.language_model."],
  ] as const)("%s", async (_, more, from, to) => {
    const options: TinyModelOptions = { architecture: "llama", ...more };
    const config = { ...tinyConfig(options), model_type: "mistral" };
    const { gguf, files } = await tinyFolder(
      options,
      { model_type: "mistral3", text_config: config, vision_config: {} },
      (name) => name.replace(from, to),
    );
    await same(await format.open(trackedFiles(files)), gguf);
  });

  it("gpt2 without its prefix, with the buffers of old files", async () => {
    const own = cases.find(([name]) => name === "gpt2")?.[2];
    const { gguf, files } = await tinyFolder({ architecture: "gpt2" }, { ...own, vocab_size: 320 }, (name) =>
      name.replace("transformer.", ""),
    );
    await same(await format.open(trackedFiles(files)), gguf);
  });
});

describe("entries", () => {
  it("are one for each weight, experts stacked, and say what is read", async () => {
    const options: TinyModelOptions = { architecture: "qwen2moe", experts: mixture };
    const own = cases.find(([name]) => name === "qwen2_moe")?.[2];
    const { gguf, files } = await tinyFolder(options, {
      ...tinyConfig(options),
      ...own,
      num_experts_per_tok: 2,
    });
    const tracked = trackedFiles(files);
    const checkpoint = await format.open(tracked);
    const roles = (entries: ReturnType<Checkpoint["entries"]>): unknown =>
      Object.fromEntries(entries.map(({ role, shape, bytes }) => [role, { shape, bytes }]));
    const before = tracked.bytesRead();
    expect(roles(checkpoint.entries())).toEqual(roles(gguf.entries()));
    expect(checkpoint.entries().map(({ name }) => name)).toContain(
      "model.layers.1.mlp.experts.*.up_proj.weight",
    );
    expect(tracked.bytesRead()).toBe(before);
    await checkpoint.weight("layers.1.ffn.experts.up");
    expect(tracked.bytesRead() - before).toBe(4 * 48 * 64 * 4);
    await checkpoint.close();
    expect(tracked.openSources()).toBe(0);
  });

  it("give biases of queries in the order of their rows", async () => {
    const options: TinyModelOptions = { architecture: "qwen2" };
    const { gguf, files } = await tinyFolder(options, { ...tinyConfig(options), model_type: "llama" });
    const checkpoint = await format.open(trackedFiles(files));
    const { bias, segments } = await checkpoint.weight("layers.0.attn.q");
    expect(await checkpoint.vector("layers.0.attn.q.bias")).toEqual(bias);
    // Row 2i + b of a head is row i + 8b in the file.
    const own = await gguf.weight("layers.0.attn.q");
    const rows = (weight: typeof own): Float32Array =>
      dequantize(weight.segments[0]!.type, weight.segments[0]!.blocks, new Float32Array(64 * 64));
    expect(bias?.[16 + 2 * 3 + 1]).toBe(own.bias?.[16 + 3 + 8]);
    expect(rows({ ...own, segments }).subarray(23 * 64, 24 * 64)).toEqual(
      rows(own).subarray(27 * 64, 28 * 64),
    );
  });
});
