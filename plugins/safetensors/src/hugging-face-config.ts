import type { Activation, ExpertConfig, ModelConfig } from "@lowbit/core";
import { ConfigFields, type JsonObject } from "./config-fields.ts";
import { activationWords, type Family, families, wrappers } from "./families.ts";
import { readRope } from "./rope-config.ts";

/** Bounds that no real model reaches; they keep products of sizes exact. */
const maxWidth = 2 ** 20;
const maxLayers = 2 ** 12;
const maxVocabulary = 2 ** 24;

/** What config.json says, and what the weights' reader needs of it. */
export interface HuggingFaceModel {
  readonly config: ModelConfig;
  readonly family: Family;
  /** The head is the embedding. */
  readonly tied: boolean;
  /** Vectors that stand in config.json, by role. */
  readonly vectors: ReadonlyMap<string, Float32Array>;
}

/**
 * Reads config.json into a model's configuration, numbers rounded to f32 as the implementations have them. Throws `file-corrupt`
 * (missing-metadata, invalid-value) naming the field, or `architecture-unsupported`.
 */
export function huggingFaceModel(root: JsonObject, file = "config.json"): HuggingFaceModel {
  const outer = new ConfigFields(root, file);
  const { fields, family } = findFamily(outer);
  const embeddingSize = fields.integer("hidden_size", { max: maxWidth });
  const layers = fields.integer("num_hidden_layers", { max: maxLayers });
  const heads = fields.integer("num_attention_heads", { max: maxWidth });
  const kvHeads = fields.integer("num_key_value_heads", { max: maxWidth }, heads);
  if (heads % kvHeads !== 0) {
    throw fields.invalid("num_key_value_heads", kvHeads, `a divisor of the ${heads} heads`);
  }
  const keySize = fields.integer("head_dim", { max: maxWidth }, embeddingSize / heads);
  if (!Number.isInteger(keySize)) {
    throw fields.invalid("num_attention_heads", heads, `a divisor of the width ${embeddingSize}`);
  }
  const experts = family.experts && readExperts(fields, family.experts);
  const activation = readActivation(fields, family);
  const trained = fields.integer("max_position_embeddings");
  const rotation = family.pairing === "none" ? undefined : readRope(fields, family, keySize, trained);
  const name = outer.text("_name_or_path");
  const common: ModelConfig = {
    architecture: family.architecture,
    ...(name && { name }),
    contextLength: rotation?.contextLength ?? trained,
    vocabularySize: fields.integer("vocab_size", { max: maxVocabulary }),
    embeddingSize,
    layers,
    feedForwardSize: readWidth(fields, family, embeddingSize, experts),
    heads,
    kvHeads,
    keySize,
    valueSize: keySize,
    normEpsilon: fields.number("rms_norm_eps", 0, Math.fround(1e-6)),
    ...(rotation && { rope: rotation.rope }),
    ...(experts && { experts }),
    ...(activation && { activation }),
  };
  const windowed = { ...common, ...readWindow(fields, family, common) };
  return {
    config: { ...windowed, ...family.extra?.(fields, windowed) },
    family,
    tied: fields.flag("tie_word_embeddings") ?? outer.flag("tie_word_embeddings") ?? family.tied ?? false,
    vectors: rotation?.vectors ?? new Map(),
  };
}

/** The family, and the fields of its language model: a multimodal model has a configuration inside its own. */
function findFamily(outer: ConfigFields): { fields: ConfigFields; family: Family } {
  const named = outer.text("model_type");
  if (named === undefined) throw outer.missing("model_type");
  const wrapper = Object.hasOwn(wrappers, named) ? wrappers[named] : undefined;
  const inner = wrapper && outer.object(wrapper.object);
  const type = inner ? (inner.text("model_type") ?? wrapper.type) : named;
  const family = Object.hasOwn(families, type) ? families[type] : undefined;
  if (family === undefined) {
    const known = [...Object.keys(families), ...Object.keys(wrappers)].join(", ");
    throw outer.unsupported("unknown-architecture", `the model_type is "${type}"; known are ${known}`);
  }
  return { fields: (inner ?? outer).with(family), family };
}

/** The activation where it is not the architecture's own. */
function readActivation(fields: ConfigFields, family: Family): Activation | undefined {
  const { activation: own = "silu" } = family;
  const word = fields.text("hidden_activation") ?? fields.text("hidden_act");
  if (word === undefined || family.activationWords?.includes(word)) return undefined;
  const found = Object.entries(activationWords).find(([, words]) => words.includes(word))?.[0];
  if (found === own) return undefined;
  if (found !== undefined && !family.fixedActivation) return found as Activation;
  const known = Object.entries(activationWords).filter(([name]) => !family.fixedActivation || name === own);
  const list = known.flatMap(([, words]) => words).join(", ");
  throw fields.unsupported("unknown-activation", `the activation is "${word}"; known are ${list}`);
}

function readWidth(
  fields: ConfigFields,
  family: Family,
  embeddingSize: number,
  experts: ExpertConfig | undefined,
): number {
  const range = { max: 4 * maxWidth };
  const otherwise = family.architecture === "gpt2" ? 4 * embeddingSize : experts?.feedForwardSize;
  return otherwise === undefined
    ? fields.integer("intermediate_size", range)
    : fields.integer("intermediate_size", range, otherwise);
}

function readExperts(fields: ConfigFields, keys: NonNullable<Family["experts"]>): ExpertConfig {
  const count = fields.integer(keys.count, { max: 4096 });
  const step = fields.integer("decoder_sparse_step", {}, 1);
  const dense = fields.list("mlp_only_layers");
  if (step !== 1 || (dense && dense.length > 0)) {
    throw fields.unsupported("unsupported-variant", "a mixture with dense layers in between does not run");
  }
  const shared = keys.shared && fields.integer(keys.shared, { min: 0, max: maxWidth }, 0);
  return {
    count,
    used: fields.integer("num_experts_per_tok", { max: count }),
    feedForwardSize: fields.integer(keys.size ?? "intermediate_size", { max: maxWidth }),
    ...(shared && { sharedFeedForwardSize: shared }),
    normalizeWeights: keys.normalize ? (fields.flag(keys.normalize) ?? false) : true,
  };
}

/**
 * Which layers see only a window: those that `layer_types`, patterns and flags say. An arrangement that no architecture has ends
 * the context with the window, within which all layers are alike.
 */
function readWindow(fields: ConfigFields, family: Family, config: ModelConfig): Partial<ModelConfig> {
  const { layers, contextLength } = config;
  const slidingWindow = fields.integer("sliding_window", { min: 0 }, 0);
  const types = readLayerTypes(fields, layers);
  const used = !family.windowFlag || fields.flag("use_sliding_window") === true;
  const first = family.windowFlag ? fields.integer("max_window_layers", { min: 0 }, 28) : 0;
  const range = { max: maxLayers };
  const pattern =
    fields.integer("sliding_window_pattern", range, undefined) ??
    fields.integer("_sliding_window_pattern", range, family.windowPattern);
  const follows = (every: number, layer: number): boolean => layer % every !== every - 1;
  const local = Array.from({ length: layers }, (_, layer) => {
    if (!used) return false;
    if (types) return types[layer] === "sliding_attention";
    return layer >= first && (pattern === undefined || follows(pattern, layer));
  });
  if (!local.includes(true)) return {};
  if (slidingWindow === 0) {
    if (types) throw fields.missing("sliding_window");
    return {};
  }
  const candidates = [pattern, local.indexOf(false) + 1].filter((every) => every !== undefined && every > 1);
  const slidingPattern = candidates.find((every = 0) => local.every((is, i) => is === follows(every, i)));
  if (slidingPattern !== undefined) return { slidingWindow, slidingPattern };
  if (!local.includes(false)) return { slidingWindow };
  if (family.localRopeBase === undefined) return { contextLength: Math.min(contextLength, slidingWindow) };
  throw fields.unsupported("unsupported-variant", "windows come in an irregular pattern of layers");
}

function readLayerTypes(fields: ConfigFields, layers: number): readonly unknown[] | undefined {
  const types = fields.list("layer_types");
  if (types === undefined) return undefined;
  if (types.length !== layers) {
    throw fields.invalid("layer_types", types, `one for each of the ${layers} layers`);
  }
  const other = types.find((type) => type !== "sliding_attention" && type !== "full_attention");
  if (other === undefined) return types;
  throw fields.unsupported("unsupported-variant", `layer_types has ${JSON.stringify(other)}`);
}
