import type { ModelConfig } from "@lowbit/core";
import type { ConfigFields } from "./config-fields.ts";
import { type WeightNames, weightNames } from "./names.ts";

/** What sets a `model_type` apart. */
export interface Family {
  /** `ModelConfig.architecture`. */
  readonly architecture: string;
  readonly names: WeightNames;
  /** @default "halves" */
  readonly pairing?: "adjacent" | "halves" | "none";
  /** Whether head and embedding are one where config.json does not say. @default false */
  readonly tied?: boolean;
  /** Names of activations that the architecture's own stands for. @default silu, swish */
  readonly activations?: readonly string[];
  readonly experts?: ExpertKeys;
  /** @default 1e-6 */
  readonly normEpsilon?: number;
  /** Key/value heads where config.json does not say. @default as many as heads */
  readonly kvHeads?: number;
  /** Sliding windows count only with `use_sliding_window`. @default false */
  readonly windowFlag?: boolean;
  /** Layers without a window come every so often, the last of so many being one. */
  readonly windowPattern?: number;
  /** Further fields, read after the common ones. */
  readonly extra?: (fields: ConfigFields, config: ModelConfig) => Partial<ModelConfig>;
}

/** Where a mixture's sizes are. */
interface ExpertKeys {
  readonly count: string;
  /** Absent: the dense width. */
  readonly size?: string;
  readonly shared?: string;
  /** Absent: probabilities of the chosen are divided by their sum. */
  readonly normalize?: string;
}

const gelu = ["gelu_pytorch_tanh", "gelu_new", "gelu"];
const qwenExperts: ExpertKeys = {
  count: "num_experts",
  size: "moe_intermediate_size",
  normalize: "norm_topk_prob",
};

const llama: Family = { architecture: "llama", names: weightNames.llama, pairing: "adjacent" };
const gemma: Family = { architecture: "gemma", names: weightNames.gemma, tied: true, activations: gelu };

/** Families by `model_type`. The names of architectures are those of GGUF, where Mistral and Mixtral are llama. */
export const families: Readonly<Record<string, Family>> = {
  llama,
  mistral: { ...llama, kvHeads: 8 },
  mixtral: { ...llama, names: weightNames.mixtral, kvHeads: 8, experts: { count: "num_local_experts" } },
  qwen2: { architecture: "qwen2", names: weightNames.qwen2, windowFlag: true },
  qwen2_moe: {
    architecture: "qwen2moe",
    names: weightNames.qwen2Moe,
    windowFlag: true,
    experts: { ...qwenExperts, shared: "shared_expert_intermediate_size" },
  },
  qwen3: { architecture: "qwen3", names: weightNames.qwen3, windowFlag: true },
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
    extra: (fields, config) => ({
      ...softcaps(fields, 50, 30),
      ...queryScale(fields, config, 256),
    }),
  },
  gemma3_text: {
    ...gemma,
    architecture: "gemma3",
    names: weightNames.gemma3,
    windowPattern: 6,
    extra: (fields, config) => ({
      ...softcaps(fields, undefined, undefined),
      ...queryScale(fields, config, 256),
    }),
  },
  phi3: { architecture: "phi3", names: weightNames.phi3, normEpsilon: 1e-5 },
  gpt2: {
    architecture: "gpt2",
    names: weightNames.gpt2,
    pairing: "none",
    tied: true,
    activations: ["gelu_new", "gelu_pytorch_tanh"],
    extra: checkGpt2,
  },
  bitnet: {
    architecture: "bitnet",
    names: weightNames.bitnet,
    activations: ["relu2", "silu"],
    extra: (fields) => (fields.text("hidden_act") === "relu2" ? { activation: "relu-squared" } : {}),
  },
};

function softcaps(
  fields: ConfigFields,
  attention: number | undefined,
  final: number | undefined,
): Partial<ModelConfig> {
  const attentionSoftcap = fields.number("attn_logit_softcapping", 0, attention);
  const finalSoftcap = fields.number("final_logit_softcapping", 0, final);
  return {
    ...(attentionSoftcap !== undefined && { attentionSoftcap }),
    ...(finalSoftcap !== undefined && { finalSoftcap }),
  };
}

/** Attention is scaled by this width where it is not the heads' own. */
function queryScale(fields: ConfigFields, { keySize }: ModelConfig, otherwise: number): Partial<ModelConfig> {
  const width = fields.number("query_pre_attn_scalar", 0, otherwise);
  return width === keySize ? {} : { attentionScale: 1 / Math.sqrt(width) };
}

function checkGpt2(fields: ConfigFields): Partial<ModelConfig> {
  for (const name of ["scale_attn_by_inverse_layer_idx", "add_cross_attention"]) {
    if (fields.flag(name)) throw fields.unsupported("unsupported-variant", `${name} is not supported`);
  }
  if (fields.flag("scale_attn_weights") === false) {
    throw fields.unsupported("unsupported-variant", "attention without scaling is not supported");
  }
  return {};
}
