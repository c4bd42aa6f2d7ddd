import type { ExpertConfig, ModelConfig, RopeConfig, RopeScaling } from "@lowbit/core";
import { ConfigFields, type JsonObject } from "./config-fields.ts";
import { type Family, families } from "./families.ts";

/** Bounds that no real model reaches; they keep products of sizes exact. */
const maxWidth = 2 ** 20;
const maxLayers = 2 ** 12;
const maxVocabulary = 2 ** 24;

/** What config.json says, and what the weights' reader needs of it. */
export interface HuggingFaceModel {
  readonly config: ModelConfig;
  readonly family: Family;
  readonly tied: boolean;
  /** Vectors that stand in config.json, by role. */
  readonly vectors: ReadonlyMap<string, Float32Array>;
}

/**
 * Reads config.json into a model's configuration. Throws `file-corrupt` (missing-metadata, invalid-value) naming the field, or
 * `architecture-unsupported`.
 */
export function huggingFaceModel(root: JsonObject, file = "config.json"): HuggingFaceModel {
  const outer = new ConfigFields(root, file);
  const named = outer.text("model_type");
  // A multimodal model's language model has a configuration of its own.
  const inner = named === "gemma3" ? outer.object("text_config") : undefined;
  const fields = inner ?? outer;
  const type = inner ? (inner.text("model_type") ?? "gemma3_text") : named;
  if (type === undefined) throw fields.missing("model_type");
  const family = Object.hasOwn(families, type) ? families[type] : undefined;
  if (family === undefined) {
    const known = Object.keys(families).join(", ");
    throw fields.unsupported("unknown-architecture", `the model_type is "${type}"; known are ${known}`);
  }
  checkActivation(fields, family);
  const gpt2 = type === "gpt2";
  const size = (name: string, gpt2Name: string, max: number, ...rest: [number?]): number =>
    fields.integer(gpt2 ? gpt2Name : name, { max }, ...(rest as []));
  const embeddingSize = size("hidden_size", "n_embd", maxWidth);
  const layers = size("num_hidden_layers", "n_layer", maxLayers);
  const heads = size("num_attention_heads", "n_head", maxWidth);
  const kvHeads = gpt2
    ? heads
    : fields.integer("num_key_value_heads", { max: maxWidth }, Math.min(family.kvHeads ?? heads, heads));
  if (heads % kvHeads !== 0) {
    throw fields.invalid("num_key_value_heads", kvHeads, `a divisor of the ${heads} heads`);
  }
  const keySize = fields.integer("head_dim", { max: maxWidth }, embeddingSize / heads);
  if (!Number.isInteger(keySize)) {
    throw fields.invalid(
      gpt2 ? "n_head" : "num_attention_heads",
      heads,
      `a divisor of the width ${embeddingSize}`,
    );
  }
  const contextLength = size("max_position_embeddings", "n_positions", 2 ** 31 - 1);
  const experts = family.experts && readExperts(fields, family);
  const feedForwardSize = gpt2
    ? fields.integer("n_inner", { max: 4 * maxWidth }, 4 * embeddingSize)
    : fields.integer("intermediate_size", { max: 4 * maxWidth }, experts?.feedForwardSize ?? 0);
  if (feedForwardSize === 0) throw fields.missing("intermediate_size");
  const rotation = family.pairing === "none" ? undefined : readRope(fields, family, keySize, contextLength);
  const name = outer.text("_name_or_path");
  const common: ModelConfig = {
    architecture: family.architecture,
    ...(name && { name }),
    contextLength: rotation?.contextLength ?? contextLength,
    vocabularySize: fields.integer("vocab_size", { max: maxVocabulary }),
    embeddingSize,
    layers,
    feedForwardSize,
    heads,
    kvHeads,
    keySize,
    valueSize: keySize,
    normEpsilon: gpt2
      ? fields.number("layer_norm_epsilon", 0, 1e-5)
      : fields.number("rms_norm_eps", 0, family.normEpsilon ?? 1e-6),
    ...(rotation && { rope: rotation.rope }),
    ...(experts && { experts }),
    ...readWindow(fields, family, layers),
  };
  return {
    config: { ...common, ...family.extra?.(fields, common) },
    family,
    tied: fields.flag("tie_word_embeddings") ?? outer.flag("tie_word_embeddings") ?? family.tied ?? false,
    vectors: rotation?.vectors ?? new Map(),
  };
}

function checkActivation(fields: ConfigFields, { activations = ["silu", "swish"] }: Family): void {
  const found =
    fields.text("hidden_activation") ?? fields.text("hidden_act") ?? fields.text("activation_function");
  if (found === undefined || activations.includes(found)) return;
  const what = `the activation is "${found}", only ${activations.join(" and ")} run`;
  throw fields.unsupported("unknown-activation", what);
}

function readExperts(fields: ConfigFields, { experts: keys }: Family): ExpertConfig | undefined {
  if (keys === undefined) return undefined;
  const count = fields.integer(keys.count, { max: 4096 });
  const sparse = fields.integer("decoder_sparse_step", {}, 1);
  const dense = fields.list("mlp_only_layers");
  if (sparse !== 1 || (dense && dense.length > 0)) {
    throw fields.unsupported(
      "unsupported-variant",
      "layers with and without experts in one model do not run",
    );
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

/** Which layers see only a window: all, or all but each nth, as patterns, lists of layer types and flags say. */
function readWindow(fields: ConfigFields, family: Family, layers: number): Partial<ModelConfig> {
  const slidingWindow = fields.integer("sliding_window", { min: 0 }, 0);
  const used = !family.windowFlag || fields.flag("use_sliding_window") === true;
  const types = fields.list("layer_types");
  if (slidingWindow === 0 || !used) {
    if (types?.some((type) => type === "sliding_attention") && used) throw fields.missing("sliding_window");
    return {};
  }
  if (types !== undefined) {
    if (types.length !== layers) {
      throw fields.invalid("layer_types", types, `one for each of the ${layers} layers`);
    }
    const global = types.indexOf("full_attention");
    const pattern = global < 0 ? undefined : global + 1;
    const isGlobal = (i: number): boolean => pattern !== undefined && i % pattern === pattern - 1;
    const fits = types.every((type, i) => type === (isGlobal(i) ? "full_attention" : "sliding_attention"));
    // All global, or the regular patterns that an architecture can have.
    if (pattern === 1 && fits) return {};
    if (fits) return { slidingWindow, ...(pattern && { slidingPattern: pattern }) };
    throw fields.unsupported("unsupported-variant", "windows come in an irregular pattern of layers");
  }
  if (family.windowFlag) {
    // Layers from max_window_layers on have a window.
    const first = fields.integer("max_window_layers", { min: 0 }, 28);
    if (first >= layers) return {};
    if (first > 0) throw fields.unsupported("unsupported-variant", "only the upper layers have a window");
  }
  const slidingPattern = fields.integer("sliding_window_pattern", {}, family.windowPattern);
  return { slidingWindow, ...(slidingPattern !== undefined && { slidingPattern }) };
}

interface Rotation {
  readonly rope: RopeConfig;
  readonly vectors: Map<string, Float32Array>;
  /** Where scaling changes it. */
  readonly contextLength: number;
}

function readRope(fields: ConfigFields, family: Family, keySize: number, contextLength: number): Rotation {
  // Newer files keep base and scaling together, models with windows for each type of layer.
  const parameters = fields.object("rope_parameters");
  const global = parameters?.object("full_attention") ?? parameters;
  const local = parameters?.object("sliding_attention");
  const base = global?.number("rope_theta", 0, undefined) ?? fields.number("rope_theta", 0, 10_000);
  const part =
    global?.number("partial_rotary_factor", 0, undefined) ?? fields.number("partial_rotary_factor", 0, 1);
  const dimensions = Math.round(keySize * part);
  if (dimensions < 2 || dimensions > keySize || dimensions % 2 !== 0) {
    throw fields.invalid("partial_rotary_factor", part, `a share of ${keySize} dimensions that is even`);
  }
  if (family.pairing === "adjacent" && dimensions !== keySize) {
    throw fields.unsupported("unsupported-variant", "a rotation of a part of each head");
  }
  const windows = family.architecture === "gemma3";
  const localBase = windows
    ? (local?.number("rope_theta", 0, undefined) ?? fields.number("rope_local_base_freq", 0, 10_000))
    : undefined;
  const scaling = readScaling(fields, global ?? fields.object("rope_scaling"), dimensions, contextLength);
  return {
    rope: {
      dimensions,
      base,
      ...(localBase !== undefined && { localBase }),
      pairing: family.pairing === "adjacent" ? "adjacent" : "halves",
      ...(scaling.scaling && { scaling: scaling.scaling }),
    },
    vectors: scaling.vectors ?? new Map(),
    contextLength: scaling.contextLength ?? contextLength,
  };
}

interface Scaling {
  readonly scaling?: RopeScaling;
  readonly vectors?: Map<string, Float32Array>;
  readonly contextLength?: number;
}

function readScaling(
  fields: ConfigFields,
  object: ConfigFields | undefined,
  dimensions: number,
  contextLength: number,
): Scaling {
  const type = object?.text("rope_type") ?? object?.text("type") ?? "default";
  if (object === undefined) return {};
  const factor = (): number => object.number("factor", 0);
  switch (type) {
    case "default":
    // Changes nothing before the original length, which max_position_embeddings is.
    case "dynamic":
      return {};
    case "linear":
      return factor() === 1 ? {} : { scaling: { kind: "linear", factor: factor() } };
    case "llama3":
      return {
        scaling: {
          kind: "llama3",
          factor: factor(),
          originalContextLength: object.integer("original_max_position_embeddings"),
          lowFrequencyFactor: object.number("low_freq_factor", 0),
          highFrequencyFactor: object.number("high_freq_factor", 0),
        },
      };
    case "yarn": {
      const originalContextLength = object.integer("original_max_position_embeddings", {}, contextLength);
      const stretched = Math.floor(originalContextLength * factor());
      return {
        contextLength: Math.max(contextLength, Math.min(stretched, 2 ** 31 - 1)),
        scaling: {
          kind: "yarn",
          factor: factor(),
          originalContextLength,
          attentionFactor: yarnMagnitude(object, factor()),
          betaFast: object.number("beta_fast", 0, 32),
          betaSlow: object.number("beta_slow", 0, 1),
        },
      };
    }
    case "longrope":
    case "su":
      return readLongRope(fields, object, dimensions, contextLength);
    default:
      throw fields.unsupported("rope-scaling", `rotation is scaled by "${type}"`);
  }
}

/** What is on top of YaRN's own 1 + 0.1·ln(factor). */
function yarnMagnitude(object: ConfigFields, factor: number): number {
  const own = (scale: number): number => (factor > 1 ? 1 + 0.1 * scale * Math.log(factor) : 1);
  const given = object.number("attention_factor", 0, undefined);
  if (given !== undefined) return given / own(1);
  const first = object.number("mscale", -1, 0);
  const all = object.number("mscale_all_dim", -1, 0);
  return first > 0 && all > 0 ? own(first) / own(all) / own(1) : 1;
}

function readLongRope(
  fields: ConfigFields,
  object: ConfigFields,
  dimensions: number,
  contextLength: number,
): Scaling {
  const factors = (name: string): Float32Array => {
    const list = object.list(name) ?? [];
    const valid = list.every((value) => typeof value === "number" && Number.isFinite(value) && value > 0);
    if (list.length !== dimensions / 2 || !valid) {
      throw object.invalid(name, list, `${dimensions / 2} positive numbers`);
    }
    return Float32Array.from(list as readonly number[]);
  };
  const original =
    object.integer("original_max_position_embeddings", {}, undefined) ??
    fields.integer("original_max_position_embeddings", {}, contextLength);
  const stretch = object.number("factor", 0, contextLength / original);
  const attentionFactor =
    object.number("attention_factor", 0, undefined) ??
    (stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(original)));
  return {
    vectors: new Map([
      ["rope.factors.long", factors("long_factor")],
      ["rope.factors.short", factors("short_factor")],
    ]),
    scaling: {
      kind: "factors",
      originalContextLength: original,
      ...(attentionFactor !== 1 && { attentionFactor }),
    },
  };
}
