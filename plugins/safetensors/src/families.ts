import type { Activation, ModelConfig } from "@lowbit/core";
import type { ConfigFields } from "./config-fields.ts";
import { type WeightNames, weightNames } from "./names.ts";

/** What sets a `model_type` apart. */
export interface Family {
  /** `ModelConfig.architecture`. */
  readonly architecture: string;
  readonly names: WeightNames;
  /** @default "halves" */
  readonly pairing?: "adjacent" | "halves" | "none";
  /** Other names of fields: customary name → the family's own. */
  readonly aliases?: Readonly<Record<string, string>>;
  /** What absent fields stand for, by customary name. */
  readonly defaults?: Readonly<Record<string, number>>;
  /** Whether head and embedding are one where config.json does not say. @default false */
  readonly tied?: boolean;
  /** The architecture's own, which `ModelConfig.activation` need not name. @default "silu" */
  readonly activation?: Activation;
  /** Words of config.json that mean the architecture's own whatever they mean elsewhere. */
  readonly activationWords?: readonly string[];
  /** No other activation runs. @default false */
  readonly fixedActivation?: boolean;
  readonly experts?: ExpertKeys;
  /** Sliding windows count only with `use_sliding_window`, from layer `max_window_layers` on. @default false */
  readonly windowFlag?: boolean;
  /** Of so many layers the last has no window. Absent: all have one if there is one. */
  readonly windowPattern?: number;
  /** @default 10,000 */
  readonly ropeBase?: number;
  /** Layers with a window rotate with a base of their own, this one by default. */
  readonly localRopeBase?: number;
  /** Further fields, read after the common ones. */
  readonly extra?: (fields: ConfigFields, config: ModelConfig) => Partial<ModelConfig>;
}

/** Where a mixture's sizes are. */
export interface ExpertKeys {
  readonly count: string;
  /** Absent: the dense width. */
  readonly size?: string;
  readonly shared?: string;
  /** Absent: probabilities of the chosen are divided by their sum. */
  readonly normalize?: string;
}

/** `hidden_act` and its like; the first word of each activation is the one to write. */
export const activationWords: Readonly<Record<Activation, readonly string[]>> = {
  silu: ["silu", "swish"],
  gelu: ["gelu"],
  "gelu-tanh": ["gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate"],
  relu: ["relu"],
  "relu-squared": ["relu2"],
  sigmoid: ["sigmoid"],
};

const qwenExperts: ExpertKeys = {
  count: "num_experts",
  size: "moe_intermediate_size",
  normalize: "norm_topk_prob",
};

const llama: Family = { architecture: "llama", names: weightNames.llama, pairing: "adjacent" };
const mistral: Family = { ...llama, defaults: { num_key_value_heads: 8 } };
const gemma: Family = {
  architecture: "gemma",
  names: weightNames.gemma,
  tied: true,
  activation: "gelu-tanh",
  // The first files say "gelu" and mean its approximation.
  activationWords: ["gelu"],
  defaults: { head_dim: 256 },
};

/** Families by `model_type`. The names of architectures are those of GGUF, where Mistral and Mixtral are llama. */
export const families: Readonly<Record<string, Family>> = {
  llama,
  mistral,
  ministral3: { ...mistral, architecture: "mistral3", extra: endAtTrainedLength },
  mixtral: {
    ...mistral,
    names: weightNames.mixtral,
    ropeBase: 1e6,
    experts: { count: "num_local_experts" },
  },
  qwen2: { architecture: "qwen2", names: weightNames.qwen2, windowFlag: true },
  qwen2_moe: {
    architecture: "qwen2moe",
    names: weightNames.qwen2Moe,
    windowFlag: true,
    experts: { ...qwenExperts, shared: "shared_expert_intermediate_size" },
  },
  qwen3: { architecture: "qwen3", names: weightNames.qwen3, windowFlag: true, defaults: { head_dim: 128 } },
  qwen3_moe: {
    architecture: "qwen3moe",
    names: weightNames.qwen3Moe,
    windowFlag: true,
    experts: qwenExperts,
  },
  gemma,
  gemma2: {
    ...gemma,
    architecture: "gemma2",
    names: weightNames.gemma2,
    windowPattern: 2,
    defaults: { head_dim: 256, num_key_value_heads: 4, sliding_window: 4096, query_pre_attn_scalar: 256 },
    extra: (fields, config) => ({
      ...softcap("attentionSoftcap", fields.number("attn_logit_softcapping", 0, 50)),
      ...softcap("finalSoftcap", fields.number("final_logit_softcapping", 0, 30)),
      ...queryScale(fields, config),
    }),
  },
  gemma3_text: {
    ...gemma,
    architecture: "gemma3",
    names: weightNames.gemma3,
    windowPattern: 6,
    ropeBase: 1e6,
    localRopeBase: 10_000,
    // A multimodal model's file leaves out what is usual.
    defaults: {
      vocab_size: 262_208,
      num_attention_heads: 8,
      num_key_value_heads: 4,
      head_dim: 256,
      max_position_embeddings: 131_072,
      query_pre_attn_scalar: 256,
    },
    extra(fields, config) {
      if (fields.flag("use_bidirectional_attention")) {
        throw fields.unsupported("unsupported-variant", "attention to later tokens does not run");
      }
      return {
        ...softcap("attentionSoftcap", fields.number("attn_logit_softcapping", 0, undefined)),
        ...softcap("finalSoftcap", fields.number("final_logit_softcapping", 0, undefined)),
        ...queryScale(fields, config),
      };
    },
  },
  phi3: { architecture: "phi3", names: weightNames.phi3, defaults: { rms_norm_eps: 1e-5 } },
  gpt2: {
    architecture: "gpt2",
    names: weightNames.gpt2,
    pairing: "none",
    tied: true,
    activation: "gelu-tanh",
    fixedActivation: true,
    aliases: {
      hidden_size: "n_embd",
      num_hidden_layers: "n_layer",
      num_attention_heads: "n_head",
      max_position_embeddings: "n_positions",
      intermediate_size: "n_inner",
      rms_norm_eps: "layer_norm_epsilon",
      hidden_act: "activation_function",
    },
    defaults: { rms_norm_eps: 1e-5 },
    extra: checkGpt2,
  },
  bitnet: { architecture: "bitnet", names: weightNames.bitnet, ropeBase: 500_000 },
};

/** The `model_type` of multimodal models → where the configuration of their language model is, and its `model_type`. */
export const wrappers: Readonly<Record<string, { readonly object: string; readonly type: string }>> = {
  gemma3: { object: "text_config", type: "gemma3_text" },
  mistral3: { object: "text_config", type: "mistral" },
};

function softcap(name: "attentionSoftcap" | "finalSoftcap", value: number | undefined): Partial<ModelConfig> {
  return value === undefined ? {} : { [name]: value };
}

/** Attention is scaled by this width where it is not the heads' own. */
function queryScale(fields: ConfigFields, { keySize }: ModelConfig): Partial<ModelConfig> {
  const width = fields.number("query_pre_attn_scalar", 0);
  return width === keySize ? {} : { attentionScale: 1 / Math.sqrt(width) };
}

/** Beyond that length it would scale queries by position, which no architecture here does. */
function endAtTrainedLength(fields: ConfigFields, { contextLength }: ModelConfig): Partial<ModelConfig> {
  const rope = fields.object("rope_parameters") ?? fields.object("rope_scaling");
  if (rope === undefined || rope.number("llama_4_scaling_beta", -1e9, 0) === 0) return {};
  const length = rope.integer("original_max_position_embeddings", {}, contextLength);
  return { contextLength: Math.min(contextLength, length) };
}

function checkGpt2(fields: ConfigFields): Partial<ModelConfig> {
  for (const name of ["scale_attn_by_inverse_layer_idx", "add_cross_attention"]) {
    if (fields.flag(name)) throw fields.unsupported("unsupported-variant", `${name} does not run`);
  }
  if (fields.flag("scale_attn_weights") === false) {
    throw fields.unsupported("unsupported-variant", "attention without scaling does not run");
  }
  return {};
}
