import type { ExpertConfig, ModelConfig, RopeConfig, RopeScaling } from "@lowbit/core";
import { Keys } from "./keys.ts";

/** Bounds that no real model reaches; they keep products of sizes exact. */
const maxWidth = 2 ** 20;
const maxLayers = 2 ** 12;
const maxVocabulary = 2 ** 24;

/** What sets a family apart in its metadata. Programs add their own through `gguf({ families })`. */
export interface GgufFamily {
  /** Absent: no rotation, positions are embedded. */
  readonly pairing?: RopeConfig["pairing"];
  /** Which of `attention.layer_norm_rms_epsilon` and `attention.layer_norm_epsilon` it has. @default "rms" */
  readonly norm?: "rms" | "layer";
  /** Divide the chosen experts' probabilities by their sum. @default true */
  readonly normalizeExperts?: boolean;
  /** Its experts are no option: `expert_count` is required. */
  readonly alwaysExperts?: boolean;
  /** Further fields, read after the common ones. */
  readonly extra?: (keys: Keys, config: ModelConfig) => Partial<ModelConfig>;
}

/** Families by `general.architecture`. Mistral, Mixtral and SmolLM files call themselves llama. */
const families: Readonly<Record<string, GgufFamily>> = {
  llama: { pairing: "adjacent" },
  mistral3: { pairing: "adjacent", extra: mistral3 },
  qwen2: { pairing: "halves" },
  qwen2moe: { pairing: "halves", normalizeExperts: false, alwaysExperts: true },
  qwen3: { pairing: "halves" },
  qwen3moe: { pairing: "halves", alwaysExperts: true },
  gemma: { pairing: "halves" },
  gemma2: { pairing: "halves", extra: gemma2 },
  gemma3: { pairing: "halves", extra: gemma3 },
  phi3: { pairing: "halves" },
  gpt2: { norm: "layer" },
  bitnet: { pairing: "halves", extra: bitnet },
  bert: { norm: "layer", extra: bert },
};

/** The `general.architecture` values that `modelConfig` maps. */
export const ggufArchitectures: readonly string[] = Object.keys(families);

/** Shape of a tensor by its canonical role, slowest dimension first; undefined if there is none. */
export type ShapeOf = (role: string) => readonly number[] | undefined;

/**
 * Maps GGUF metadata to a model configuration, with llama.cpp's defaults. Throws `file-corrupt` (missing-metadata,
 * invalid-value, shape-mismatch) naming the key, or `architecture-unsupported`.
 */
export function modelConfig(
  metadata: ReadonlyMap<string, unknown>,
  shapeOf: ShapeOf,
  file = "the file",
  more: Readonly<Record<string, GgufFamily>> = {},
): ModelConfig {
  const keys = new Keys(metadata, file);
  const { architecture } = keys;
  const table = [more, families].find((known) => Object.hasOwn(known, architecture));
  const family = table?.[architecture];
  if (family === undefined) {
    const known = [...ggufArchitectures, ...Object.keys(more)].join(", ");
    throw keys.unsupported(
      "unknown-architecture",
      `the architecture is "${architecture}"; known are ${known}`,
    );
  }
  const sizes = readSizes(keys);
  const experts = readExperts(keys, family, sizes.feedForwardSize);
  const name = keys.plain("general.name");
  const pooling = readPooling(keys);
  const common: ModelConfig = {
    architecture,
    ...(typeof name === "string" && { name }),
    contextLength: keys.integer("context_length"),
    vocabularySize: readVocabulary(keys, shapeOf, sizes.embeddingSize),
    ...sizes,
    feedForwardSize: sizes.feedForwardSize ?? experts?.feedForwardSize ?? keys.integer("feed_forward_length"),
    normEpsilon: keys.number(
      family.norm === "layer" ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
      0,
    ),
    ...(family.pairing && { rope: readRope(keys, family.pairing, sizes.keySize, shapeOf) }),
    ...(experts && { experts }),
    ...(keys.flag("attention.causal") === false && { causal: false }),
    ...(pooling && { pooling }),
  };
  return { ...common, ...family.extra?.(keys, common) };
}

type Sizes = Pick<ModelConfig, "embeddingSize" | "layers" | "heads" | "kvHeads" | "keySize" | "valueSize"> & {
  readonly feedForwardSize?: number;
};

function readSizes(keys: Keys): Sizes {
  const embeddingSize = keys.integer("embedding_length", { max: maxWidth });
  const layers = keys.integer("block_count", { max: maxLayers });
  const heads = keys.integer("attention.head_count", { max: maxWidth });
  const kvHeads = keys.integer("attention.head_count_kv", { max: maxWidth }, heads);
  if (heads % kvHeads !== 0) {
    throw keys.invalid(
      `${keys.architecture}.attention.head_count_kv`,
      kvHeads,
      `a divisor of the ${heads} heads`,
    );
  }
  const headSize = (key: string): number => {
    const size = keys.integer(key, { max: maxWidth }, embeddingSize / heads);
    if (Number.isInteger(size)) return size;
    const what = `a divisor of the width ${embeddingSize}, since ${key} is absent`;
    throw keys.invalid(`${keys.architecture}.attention.head_count`, heads, what);
  };
  const feedForwardSize = keys.integer("feed_forward_length", { max: 4 * maxWidth }, undefined);
  return {
    embeddingSize,
    layers,
    heads,
    kvHeads,
    keySize: headSize("attention.key_length"),
    valueSize: headSize("attention.value_length"),
    ...(feedForwardSize !== undefined && { feedForwardSize }),
  };
}

/** The embedding table knows best: converters pad it past the tokenizer's tokens. */
function readVocabulary(keys: Keys, shapeOf: ShapeOf, embeddingSize: number): number {
  const shape = shapeOf("embed");
  if (shape !== undefined) {
    const [rows, columns] = shape;
    if (shape.length === 2 && columns === embeddingSize && rows !== undefined) return rows;
    throw keys.invalid("the embedding table's shape", shape.join(" × "), `tokens × ${embeddingSize}`);
  }
  const tokens = keys.plain("tokenizer.ggml.tokens");
  const range = { max: maxVocabulary };
  return Array.isArray(tokens)
    ? keys.integer("vocab_size", range, tokens.length)
    : keys.integer("vocab_size", range);
}

function readExperts(
  keys: Keys,
  family: GgufFamily,
  feedForwardSize: number | undefined,
): ExpertConfig | undefined {
  const count = keys.integer("expert_count", { min: 0, max: 4096 }, undefined);
  if (family.alwaysExperts && count === undefined) throw keys.missing(`${keys.architecture}.expert_count`);
  if (count === undefined || (count === 0 && !family.alwaysExperts)) return undefined;
  const used = keys.integer("expert_used_count", { max: count });
  // Without its own key, llama's experts have the dense width, and Qwen's together make up the dense width.
  const fallback =
    feedForwardSize === undefined ? undefined : feedForwardSize / (family.alwaysExperts ? used : 1);
  const size = keys.integer("expert_feed_forward_length", { max: maxWidth }, fallback);
  if (size === undefined || !Number.isInteger(size))
    throw keys.missing(`${keys.architecture}.expert_feed_forward_length`);
  const shared = keys.integer(
    "expert_shared_feed_forward_length",
    { min: 0, max: maxWidth },
    keys.architecture === "qwen2moe" ? feedForwardSize : undefined,
  );
  return {
    count,
    used,
    feedForwardSize: size,
    ...(shared && { sharedFeedForwardSize: shared }),
    normalizeWeights: family.normalizeExperts ?? true,
  };
}

/** By their number in `pooling_type`. */
export const poolings = ["none", "mean", "cls", "last"] as const;

function readPooling(keys: Keys): ModelConfig["pooling"] {
  const type = keys.integer("pooling_type", { min: 0 }, undefined);
  if (type === undefined) return undefined;
  const pooling = poolings[type];
  if (pooling === undefined)
    throw keys.unsupported("unknown-pooling", `${keys.architecture}.pooling_type is ${type}`);
  return pooling;
}

function readRope(keys: Keys, pairing: RopeConfig["pairing"], keySize: number, shapeOf: ShapeOf): RopeConfig {
  const dimensions = keys.integer("rope.dimension_count", { min: 2, max: keySize }, keySize);
  if (dimensions % 2 !== 0) {
    throw keys.invalid(`${keys.architecture}.rope.dimension_count`, dimensions, "an even number");
  }
  const localBase = keys.number("rope.freq_base_swa", 0, undefined);
  const scaling = readScaling(keys, shapeOf);
  return {
    dimensions,
    base: keys.number("rope.freq_base", 0, 10_000),
    ...(localBase !== undefined && { localBase }),
    pairing,
    ...(scaling && { scaling }),
  };
}

function readScaling(keys: Keys, shapeOf: ShapeOf): RopeScaling | undefined {
  const type = keys.text("rope.scaling.type") ?? "linear";
  if (!["none", "linear", "yarn", "longrope"].includes(type)) {
    throw keys.unsupported("rope-scaling", `${keys.architecture}.rope.scaling.type is "${type}"`);
  }
  // 0 stands for "none"; the second key is the older name.
  const stored = keys.number("rope.scaling.factor", -1, undefined) ?? keys.number("rope.scale_linear", -1, 0);
  const factor = type === "none" || stored <= 0 ? 1 : stored;
  const attentionFactor = keys.number("rope.scaling.attn_factor", 0, 1);
  const contextLength = keys.integer("context_length");
  const originalContextLength = keys.integer("rope.scaling.original_context_length", {}, contextLength);
  const hasFactors = shapeOf("rope.factors") !== undefined;
  const hasLong = shapeOf("rope.factors.long") !== undefined && shapeOf("rope.factors.short") !== undefined;
  if (hasFactors || hasLong) {
    if (factor !== 1) {
      throw keys.unsupported(
        "rope-scaling",
        `rotation has both a factor of ${factor} and a tensor of factors`,
      );
    }
    return {
      kind: "factors",
      ...(hasLong && { originalContextLength }),
      ...(attentionFactor !== 1 && { attentionFactor }),
    };
  }
  if (type === "yarn") return readYarn(keys, factor, originalContextLength, attentionFactor);
  if (factor === 1) return undefined;
  return { kind: "linear", factor };
}

function readYarn(
  keys: Keys,
  factor: number,
  originalContextLength: number,
  attentionFactor: number,
): RopeScaling {
  const logMultiplier = keys.number("rope.scaling.yarn_log_multiplier", -1, 0);
  // DeepSeek's second magnitude: it divides the first, 1 + 0.1·ln(factor), which the rotation applies by itself.
  const second = logMultiplier === 0 || factor <= 1 ? 1 : 1 + 0.1 * logMultiplier * Math.log(factor);
  return {
    kind: "yarn",
    factor,
    originalContextLength,
    extrapolationFactor: keys.number("rope.scaling.yarn_ext_factor", -1e9, 1),
    attentionFactor: attentionFactor / second,
    betaFast: keys.number("rope.scaling.yarn_beta_fast", 0, 32),
    betaSlow: keys.number("rope.scaling.yarn_beta_slow", 0, 1),
  };
}

/** Beyond the original context it would scale queries by position, which no architecture here does; so it ends there. */
function mistral3(keys: Keys, config: ModelConfig): Partial<ModelConfig> {
  if (keys.number("attention.temperature_scale", -1e9, 0) === 0) return {};
  const original = keys.integer("rope.scaling.original_context_length", {}, config.contextLength);
  const length = keys.integer("attention.temperature_length", {}, original);
  return { contextLength: Math.min(config.contextLength, length) };
}

function gemma2(keys: Keys, config: ModelConfig): Partial<ModelConfig> {
  return {
    slidingWindow: keys.integer("attention.sliding_window", {}, 4096),
    slidingPattern: keys.integer("attention.sliding_window_pattern", {}, 2),
    attentionSoftcap: keys.number("attn_logit_softcapping", 0, 50),
    finalSoftcap: keys.number("final_logit_softcapping", 0, 30),
    // No key tells the 27B, whose scale follows from the width; it alone has 46 layers.
    ...(config.layers === 46 && {
      attentionScale: 1 / Math.sqrt(Math.floor(config.embeddingSize / config.heads)),
    }),
  };
}

function gemma3(keys: Keys, config: ModelConfig): Partial<ModelConfig> {
  const slidingWindow = keys.integer("attention.sliding_window", { min: 0 }, 0);
  const finalSoftcap = keys.number("final_logit_softcapping", 0, undefined);
  return {
    ...(slidingWindow > 0 && {
      slidingWindow,
      slidingPattern: keys.integer("attention.sliding_window_pattern", {}, 6),
      ...(config.rope && { rope: { ...config.rope, localBase: config.rope.localBase ?? 10_000 } }),
    }),
    ...(slidingWindow === 0 && finalSoftcap !== undefined && { finalSoftcap }),
    // The 27B is the one with 62 layers.
    ...(config.layers === 62 && {
      attentionScale: 1 / Math.sqrt(Math.floor(config.embeddingSize / config.heads)),
    }),
  };
}

function bitnet(keys: Keys): Partial<ModelConfig> {
  const activation = keys.text("hidden_act") ?? "silu";
  if (activation === "silu") return {};
  if (activation === "relu2") return { activation: "relu-squared" };
  throw keys.unsupported(
    "unknown-activation",
    `bitnet.hidden_act is "${activation}", only "silu" and "relu2" run`,
  );
}

function bert(keys: Keys): Partial<ModelConfig> {
  return { causal: keys.flag("attention.causal") ?? false };
}
