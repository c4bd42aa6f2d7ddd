import type { ModelConfig } from "@lowbit/core";
import { safetensorsError } from "../errors.ts";
import { activationWords } from "../families.ts";
import { type WeightNames, weightNames } from "../names.ts";
import { type JsonFields, shortest } from "./json-fields.ts";
import { ropeFields } from "./rope-json.ts";

/** How a family is written. */
export interface FamilyConfig {
  readonly modelType: string;
  /** Of transformers. */
  readonly className: string;
  readonly names: WeightNames;
  /** Fields beside the common ones, which they replace. */
  readonly fields?: (config: ModelConfig) => JsonFields;
}

/** What only the finished weights tell. */
export interface WrittenModel {
  readonly tied: boolean;
  /** Whether attention's projections have biases, where families differ in that. */
  readonly attentionBias: boolean;
  /** Vectors of rotation factors, by role. */
  readonly rope: Readonly<Record<string, readonly number[]>>;
}

/** By `ModelConfig.architecture`; a llama with experts is a mixtral. */
const familyConfigs: Readonly<Record<string, FamilyConfig>> = {
  llama: { modelType: "llama", className: "LlamaForCausalLM", names: weightNames.llama, fields: llama },
  mistral3: {
    modelType: "mistral",
    className: "MistralForCausalLM",
    names: weightNames.llama,
    fields: (config) => ({ sliding_window: config.slidingWindow ?? null }),
  },
  mixtral: {
    modelType: "mixtral",
    className: "MixtralForCausalLM",
    names: weightNames.mixtral,
    fields: mixtral,
  },
  qwen2: { modelType: "qwen2", className: "Qwen2ForCausalLM", names: weightNames.qwen2, fields: qwen },
  qwen2moe: {
    modelType: "qwen2_moe",
    className: "Qwen2MoeForCausalLM",
    names: weightNames.qwen2Moe,
    fields: (config) => ({
      ...qwen(config),
      ...qwenExperts(config),
      shared_expert_intermediate_size: config.experts?.sharedFeedForwardSize ?? 0,
    }),
  },
  qwen3: { modelType: "qwen3", className: "Qwen3ForCausalLM", names: weightNames.qwen3, fields: qwen },
  qwen3moe: {
    modelType: "qwen3_moe",
    className: "Qwen3MoeForCausalLM",
    names: weightNames.qwen3Moe,
    fields: (config) => ({ ...qwen(config), ...qwenExperts(config) }),
  },
  gemma: { modelType: "gemma", className: "GemmaForCausalLM", names: weightNames.gemma, fields: gelu },
  gemma2: { modelType: "gemma2", className: "Gemma2ForCausalLM", names: weightNames.gemma2, fields: gemma2 },
  gemma3: {
    modelType: "gemma3_text",
    className: "Gemma3ForCausalLM",
    names: weightNames.gemma3,
    fields: gemma2,
  },
  phi3: { modelType: "phi3", className: "Phi3ForCausalLM", names: weightNames.phi3, fields: phi3 },
  gpt2: { modelType: "gpt2", className: "GPT2LMHeadModel", names: weightNames.gpt2 },
  bitnet: { modelType: "bitnet", className: "BitNetForCausalLM", names: weightNames.bitnet },
};

/** The same under the names that other formats use. */
const otherNames: Readonly<Record<string, string>> = {
  mistral: "mistral3",
  qwen2_moe: "qwen2moe",
  qwen3_moe: "qwen3moe",
  gemma3_text: "gemma3",
  "bitnet-b1.58": "bitnet",
};

/** Throws `architecture-unsupported` for architectures that have no folder form here. */
export function familyOf({ architecture, experts }: ModelConfig): FamilyConfig {
  const name = Object.hasOwn(otherNames, architecture) ? (otherNames[architecture] ?? "") : architecture;
  const chosen = name === "llama" && experts ? "mixtral" : name;
  const family = Object.hasOwn(familyConfigs, chosen) ? familyConfigs[chosen] : undefined;
  if (family) return family;
  const known = Object.keys(familyConfigs).join(", ");
  throw safetensorsError(
    "architecture-unsupported",
    "unknown-architecture",
    `There is no Hugging Face form of ${JSON.stringify(architecture)} here; known are ${known}.`,
  );
}

/** transformers' class for a `model_type`, where it is known. */
export function classOf(modelType: string): string | undefined {
  return Object.values(familyConfigs).find((family) => family.modelType === modelType)?.className;
}

/** config.json of a model that came from elsewhere, without dtype, token ids and quantization. */
export function configJson(config: ModelConfig, family: FamilyConfig, model: WrittenModel): JsonFields {
  const head = {
    architectures: [family.className],
    model_type: family.modelType,
    ...(config.name !== undefined && { _name_or_path: config.name }),
    vocab_size: config.vocabularySize,
    tie_word_embeddings: model.tied,
    use_cache: true,
    initializer_range: 0.02,
  };
  if (family.modelType === "gpt2") return { ...head, ...gpt2(config) };
  if (config.valueSize !== config.keySize) {
    throw unsupported(config, `heads of ${config.keySize} for keys and ${config.valueSize} for values`);
  }
  return {
    ...head,
    hidden_size: config.embeddingSize,
    intermediate_size: config.feedForwardSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.keySize,
    hidden_act: activation(config),
    max_position_embeddings: config.contextLength,
    rms_norm_eps: shortest(config.normEpsilon),
    attention_dropout: 0,
    ...ropeFields(config, model.rope, (what) => unsupported(config, what)),
    ...family.fields?.(config),
    // Others always have the biases that they have, or never.
    ...(family.modelType === "llama" && { attention_bias: model.attentionBias }),
  };
}

function activation({ activation = "silu" }: ModelConfig): string {
  return activationWords[activation][0] ?? activation;
}

function llama(): JsonFields {
  return { mlp_bias: false, pretraining_tp: 1 };
}

function mixtral({ experts }: ModelConfig): JsonFields {
  return {
    intermediate_size: experts?.feedForwardSize ?? 0,
    num_local_experts: experts?.count ?? 0,
    num_experts_per_tok: experts?.used ?? 0,
    sliding_window: null,
    router_jitter_noise: 0,
    output_router_logits: false,
  };
}

function qwen({ slidingWindow, layers }: ModelConfig): JsonFields {
  // Layers from max_window_layers on have the window.
  return slidingWindow === undefined
    ? { use_sliding_window: false, sliding_window: null, max_window_layers: layers }
    : { use_sliding_window: true, sliding_window: slidingWindow, max_window_layers: 0 };
}

function qwenExperts({ experts }: ModelConfig): JsonFields {
  return {
    moe_intermediate_size: experts?.feedForwardSize ?? 0,
    num_experts: experts?.count ?? 0,
    num_experts_per_tok: experts?.used ?? 0,
    norm_topk_prob: experts?.normalizeWeights ?? false,
    decoder_sparse_step: 1,
    mlp_only_layers: [],
    output_router_logits: false,
  };
}

function gelu(): JsonFields {
  return { hidden_act: "gelu_pytorch_tanh", hidden_activation: "gelu_pytorch_tanh" };
}

function gemma2(config: ModelConfig): JsonFields {
  const { slidingWindow, slidingPattern, layers, keySize, attentionScale } = config;
  const isLocal = (layer: number): boolean =>
    slidingWindow !== undefined &&
    (slidingPattern === undefined || layer % slidingPattern !== slidingPattern - 1);
  const layerTypes = Array.from({ length: layers }, (_, i) =>
    isLocal(i) ? "sliding_attention" : "full_attention",
  );
  const { rope } = config;
  return {
    ...gelu(),
    attn_logit_softcapping: softcap(config.attentionSoftcap),
    final_logit_softcapping: softcap(config.finalSoftcap),
    query_pre_attn_scalar: attentionScale === undefined ? keySize : shortest(attentionScale ** -2),
    sliding_window: slidingWindow ?? null,
    ...(slidingPattern !== undefined && { sliding_window_pattern: slidingPattern }),
    layer_types: layerTypes,
    ...(rope?.localBase !== undefined && { rope_local_base_freq: shortest(rope.localBase) }),
  };
}

function softcap(value: number | undefined): number | null {
  return value === undefined ? null : shortest(value);
}

function phi3(config: ModelConfig): JsonFields {
  const { rope, keySize, slidingWindow, contextLength } = config;
  const scaling = rope?.scaling;
  const original = scaling?.kind === "factors" ? scaling.originalContextLength : undefined;
  return {
    sliding_window: slidingWindow ?? null,
    partial_rotary_factor: rope ? rope.dimensions / keySize : 1,
    original_max_position_embeddings: original ?? contextLength,
    resid_pdrop: 0,
    embd_pdrop: 0,
  };
}

function gpt2(config: ModelConfig): JsonFields {
  const { embeddingSize, heads, keySize, contextLength, feedForwardSize } = config;
  if (config.kvHeads !== heads || keySize * heads !== embeddingSize || config.valueSize !== keySize) {
    throw unsupported(config, `${heads} heads of ${keySize} in a width of ${embeddingSize}`);
  }
  return {
    n_embd: embeddingSize,
    n_layer: config.layers,
    n_head: heads,
    n_positions: contextLength,
    n_ctx: contextLength,
    n_inner: feedForwardSize === 4 * embeddingSize ? null : feedForwardSize,
    activation_function: "gelu_new",
    layer_norm_epsilon: shortest(config.normEpsilon),
    attn_pdrop: 0,
    embd_pdrop: 0,
    resid_pdrop: 0,
  };
}

function unsupported({ architecture }: ModelConfig, what: string): Error {
  return safetensorsError(
    "format-unsupported",
    "unsupported-variant",
    `config.json of a ${architecture} cannot say this: ${what}.`,
  );
}
