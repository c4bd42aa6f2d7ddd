import { type ModelConfig, portableMath, type RopeConfig, type RopeScaling } from "@lowbit/core";
import { llama3Factors } from "../rope-config.ts";
import { type JsonFields, shortest } from "./json-fields.ts";

const { log } = portableMath;

type Vectors = Readonly<Record<string, readonly number[]>>;

/** `rope_theta` and `rope_scaling`. `refuse` makes the error for what they cannot say. */
export function ropeFields(
  config: ModelConfig,
  vectors: Vectors,
  refuse: (what: string) => Error,
): JsonFields {
  const { rope } = config;
  if (rope === undefined) throw refuse("positions without rotation");
  const { scaling } = rope;
  const said = scaling && scalingFields(config, rope, scaling, vectors, refuse);
  return {
    rope_theta: shortest(rope.base),
    rope_scaling: said ?? null,
    ...exactFactors(rope, said, vectors),
  };
}

function scalingFields(
  config: ModelConfig,
  rope: RopeConfig,
  scaling: RopeScaling,
  vectors: Vectors,
  refuse: (what: string) => Error,
): JsonFields {
  switch (scaling.kind) {
    case "linear":
      return { rope_type: "linear", factor: shortest(scaling.factor) };
    case "llama3":
      return llama3Fields(scaling);
    case "yarn": {
      const { factor, attentionFactor = 1, extrapolationFactor = 1, betaFast = 32, betaSlow = 1 } = scaling;
      if (extrapolationFactor !== 1)
        throw refuse(`YaRN with an extrapolation factor of ${extrapolationFactor}`);
      const own = factor > 1 ? 1 + 0.1 * log(factor) : 1;
      return {
        rope_type: "yarn",
        factor: shortest(factor),
        original_max_position_embeddings: scaling.originalContextLength,
        ...(attentionFactor !== 1 && { attention_factor: own * attentionFactor }),
        ...(betaFast !== 32 && { beta_fast: shortest(betaFast) }),
        ...(betaSlow !== 1 && { beta_slow: shortest(betaSlow) }),
      };
    }
    case "factors":
      return factorFields(config, rope, scaling, vectors, refuse);
  }
}

/**
 * Divisors as vectors: those that Llama 3's rule makes are said by its parameters, others are spelled out as LongRoPE, where one vector
 * does for both lengths.
 */
function factorFields(
  config: ModelConfig,
  rope: RopeConfig,
  scaling: RopeScaling & { readonly kind: "factors" },
  vectors: Vectors,
  refuse: (what: string) => Error,
): JsonFields {
  const { contextLength } = config;
  const one = vectors["rope.factors"];
  const long = vectors["rope.factors.long"] ?? one;
  const short = vectors["rope.factors.short"] ?? one;
  if (long === undefined || short === undefined) throw refuse("factors of rotation that are not there");
  const attentionFactor = scaling.attentionFactor ?? 1;
  const known = one && attentionFactor === 1 ? llama3Of(one, rope, contextLength) : undefined;
  if (known) return llama3Fields(known);
  const original = scaling.originalContextLength ?? contextLength;
  const stretch = contextLength / original;
  const customary = stretch <= 1 || original < 2 ? 1 : Math.sqrt(1 + log(stretch) / log(original));
  return {
    [config.architecture === "phi3" ? "type" : "rope_type"]: "longrope",
    long_factor: [...long].map(shortest),
    short_factor: [...short].map(shortest),
    // Phi 3 has it beside rope_scaling, and its readers refuse further fields here.
    ...(config.architecture !== "phi3" && { original_max_position_embeddings: original }),
    ...(attentionFactor !== Math.fround(customary) && { attention_factor: shortest(attentionFactor) }),
  };
}

/** Where a converter's divisors differ in their last bits from those that the parameters make, they are kept beside them. */
function exactFactors(rope: RopeConfig, said: JsonFields | undefined, vectors: Vectors): JsonFields {
  const divisors = vectors["rope.factors"];
  if (said?.rope_type !== "llama3" || divisors === undefined) return {};
  const made = llama3Factors(rope, {
    factor: Number(said.factor),
    lowFrequencyFactor: Number(said.low_freq_factor),
    highFrequencyFactor: Number(said.high_freq_factor),
    originalContextLength: Number(said.original_max_position_embeddings),
  });
  return made.every((value, i) => value === divisors[i]) ? {} : { rope_factors: divisors.map(shortest) };
}

type Llama3 = RopeScaling & { readonly kind: "llama3" };

function llama3Fields(scaling: Llama3): JsonFields {
  return {
    rope_type: "llama3",
    factor: shortest(scaling.factor),
    low_freq_factor: shortest(scaling.lowFrequencyFactor),
    high_freq_factor: shortest(scaling.highFrequencyFactor),
    original_max_position_embeddings: scaling.originalContextLength,
  };
}

/** Converters compute divisors in f32. */
const tolerance = 1e-5;

/** The parameters that make these divisors, among those that models have. */
function llama3Of(divisors: readonly number[], rope: RopeConfig, contextLength: number): Llama3 | undefined {
  const largest = Math.max(...divisors);
  const short = Math.round(largest * 1000) / 1000;
  // A rounding of the blend may come out above the factor itself.
  const factor = Math.abs(short - largest) <= tolerance * largest ? short : largest;
  if (!(factor > 1)) return undefined;
  for (const originalContextLength of [8192, contextLength / factor, 4096, 2048, 16384, 32768]) {
    for (const [lowFrequencyFactor, highFrequencyFactor] of [
      [1, 4],
      [1, 2],
      [1, 8],
      [2, 4],
    ] as const) {
      if (!Number.isSafeInteger(originalContextLength)) continue;
      const scaling: Llama3 = {
        kind: "llama3",
        factor,
        originalContextLength,
        lowFrequencyFactor,
        highFrequencyFactor,
      };
      const made = llama3Factors(rope, scaling);
      if (made.every((value, i) => Math.abs(value - (divisors[i] ?? 0)) <= tolerance * value)) return scaling;
    }
  }
  return undefined;
}
