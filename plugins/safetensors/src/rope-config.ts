import { portableMath, type RopeConfig, type RopeScaling } from "@lowbit/core";
import type { ConfigFields } from "./config-fields.ts";
import type { Family } from "./families.ts";

// Portable: factors and magnitudes should be the same to the last bit on every engine.
const { log, pow } = portableMath;

/** How a model rotates queries and keys, and what else config.json says by it. */
export interface Rotation {
  readonly rope: RopeConfig;
  /** Divisors of the frequencies, by role. */
  readonly vectors: ReadonlyMap<string, Float32Array>;
  /** The model's, where scaling changes it. */
  readonly contextLength: number;
}

/** Reads `rope_theta`, `rope_scaling` and their like, or the newer `rope_parameters`. Throws as `huggingFaceModel` does. */
export function readRope(
  fields: ConfigFields,
  family: Family,
  keySize: number,
  contextLength: number,
): Rotation {
  // Newer files keep base and scaling together; models with windows do so for each type of layer.
  const parameters = fields.object("rope_parameters");
  const global = parameters?.object("full_attention") ?? parameters;
  const local = parameters?.object("sliding_attention");
  const base =
    global?.number("rope_theta", 0, undefined) ??
    fields.number("rope_theta", 0, undefined) ??
    family.ropeBase ??
    10_000;
  const part =
    global?.number("partial_rotary_factor", 0, undefined) ?? fields.number("partial_rotary_factor", 0, 1);
  const dimensions = Math.floor(keySize * part);
  if (dimensions < 2 || dimensions > keySize || dimensions % 2 !== 0) {
    throw fields.invalid("partial_rotary_factor", part, `a share of ${keySize} dimensions that is even`);
  }
  if (family.pairing === "adjacent" && dimensions !== keySize) {
    throw fields.unsupported("unsupported-variant", "only a part of each head rotates");
  }
  const localBase = family.localRopeBase && readLocalBase(fields, local, family.localRopeBase);
  const scaled = readScaling(fields, global ?? fields.object("rope_scaling"), {
    base,
    dimensions,
    contextLength,
  });
  return {
    rope: {
      dimensions,
      base,
      ...(localBase !== undefined && { localBase }),
      pairing: family.pairing === "adjacent" ? "adjacent" : "halves",
      ...(scaled.scaling && { scaling: scaled.scaling }),
    },
    vectors: scaled.vectors ?? new Map(),
    contextLength: scaled.contextLength ?? contextLength,
  };
}

/** Layers with a window rotate unscaled. */
function readLocalBase(fields: ConfigFields, local: ConfigFields | undefined, otherwise: number): number {
  const type = local && scalingType(local);
  if (type !== undefined && type !== "default") {
    throw fields.unsupported("rope-scaling", `rotation of layers with a window is scaled by "${type}"`);
  }
  return local?.number("rope_theta", 0, undefined) ?? fields.number("rope_local_base_freq", 0, otherwise);
}

interface Unscaled {
  readonly base: number;
  readonly dimensions: number;
  readonly contextLength: number;
}

interface Scaled {
  readonly scaling?: RopeScaling;
  readonly vectors?: ReadonlyMap<string, Float32Array>;
  readonly contextLength?: number;
}

function scalingType(object: ConfigFields): string {
  return object.text("rope_type") ?? object.text("type") ?? "default";
}

function readScaling(fields: ConfigFields, object: ConfigFields | undefined, unscaled: Unscaled): Scaled {
  if (object === undefined) return {};
  const { contextLength } = unscaled;
  const type = scalingType(object);
  const original = (): number =>
    object.integer("original_max_position_embeddings", {}, undefined) ??
    fields.integer("original_max_position_embeddings", {}, contextLength);
  // Phi 3's first files say "su", or "yarn" with lists.
  if (type === "longrope" || type === "su" || object.get("long_factor") !== undefined) {
    return readLongRope(object, unscaled, original());
  }
  switch (type) {
    case "default":
      return {};
    case "dynamic":
      // Changes nothing within the original length; so it ends there.
      return { contextLength: Math.min(contextLength, original()) };
    case "linear": {
      const factor = object.number("factor", 0);
      return factor === 1 ? {} : { scaling: { kind: "linear", factor } };
    }
    case "llama3": {
      const factors = llama3Factors(unscaled, {
        factor: object.number("factor", 0),
        originalContextLength: object.integer("original_max_position_embeddings"),
        lowFrequencyFactor: object.number("low_freq_factor", 0),
        highFrequencyFactor: object.number("high_freq_factor", 0),
      });
      const stored = storedFactors(fields, factors);
      return { scaling: { kind: "factors" }, vectors: new Map([["rope.factors", stored ?? factors]]) };
    }
    case "yarn":
      return readYarn(object, contextLength, original());
    default:
      throw fields.unsupported("rope-scaling", `rotation is scaled by "${type}"`);
  }
}

/**
 * Llama 3's scaling as divisors, the form in which GGUF stores it: short waves stay, those longer than the original context by a
 * factor are stretched whole, between them runs a blend.
 */
export function llama3Factors(
  { base, dimensions }: Pick<RopeConfig, "base" | "dimensions">,
  scaling: Omit<RopeScaling & { kind: "llama3" }, "kind">,
): Float32Array {
  const { factor, originalContextLength: original, lowFrequencyFactor: low } = scaling;
  const { highFrequencyFactor: high } = scaling;
  return Float32Array.from({ length: dimensions / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * pow(base, (2 * i) / dimensions);
    if (wavelength < original / high) return 1;
    if (wavelength > original / low) return factor;
    const kept = (original / wavelength - low) / (high - low);
    return 1 / ((1 - kept) / factor + kept);
  });
}

/** A converter's own rounding of these divisors, which the writer of this package keeps beside the parameters. */
function storedFactors(fields: ConfigFields, factors: Float32Array): Float32Array | undefined {
  const list = fields.list("rope_factors");
  if (list === undefined) return undefined;
  const values = Float32Array.from(list, (value) => (typeof value === "number" ? value : Number.NaN));
  const agree = factors.every((factor, i) => Math.abs((values[i] ?? Number.NaN) - factor) <= 1e-4 * factor);
  if (agree && values.length === factors.length) return values;
  throw fields.invalid("rope_factors", list, `the ${factors.length} divisors that rope_scaling makes`);
}

function readYarn(object: ConfigFields, contextLength: number, originalContextLength: number): Scaled {
  if (object.flag("truncate") === false) {
    throw object.unsupported("rope-scaling", "YaRN without whole limits (truncate: false) does not run");
  }
  const factor = object.number("factor", 0);
  // A file for a longer context may still state the length that the model was trained for.
  const stretched = Math.min(Math.floor(originalContextLength * factor), 2 ** 31 - 1);
  return {
    contextLength: Math.max(contextLength, stretched),
    scaling: {
      kind: "yarn",
      factor,
      originalContextLength,
      extrapolationFactor: 1,
      attentionFactor: yarnMagnitude(object, factor),
      betaFast: object.number("beta_fast", 0, 32),
      betaSlow: object.number("beta_slow", 0, 1),
    },
  };
}

/** What is on top of YaRN's own 1 + 0.1·ln(factor). */
function yarnMagnitude(object: ConfigFields, factor: number): number {
  const own = (scale: number): number => (factor > 1 ? 1 + 0.1 * scale * log(factor) : 1);
  const given = object.number("attention_factor", 0, undefined);
  if (given !== undefined) return given / own(1);
  const first = object.number("mscale", -1, 0);
  const all = object.number("mscale_all_dim", -1, 0);
  return first > 0 && all > 0 ? own(first) / own(all) / own(1) : 1;
}

function readLongRope(
  object: ConfigFields,
  { dimensions, contextLength }: Unscaled,
  original: number,
): Scaled {
  const factors = (name: string): Float32Array => {
    const list = object.list(name) ?? [];
    const values = Float32Array.from(list, (value) => (typeof value === "number" ? value : Number.NaN));
    if (values.length !== dimensions / 2 || !values.every((value) => value > 0 && Number.isFinite(value))) {
      throw object.invalid(name, list, `${dimensions / 2} positive numbers`);
    }
    return values;
  };
  const stretch = contextLength / original;
  const attentionFactor =
    object.number("attention_factor", 0, undefined) ??
    (stretch <= 1 || original < 2 ? 1 : Math.fround(Math.sqrt(1 + log(stretch) / log(original))));
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
