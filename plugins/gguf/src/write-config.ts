import { LowbitError, type ModelConfig, portableMath, type RopeScaling } from "@lowbit/core";
import { modelConfig, poolings } from "./config.ts";
import { type GgufEntry, type GgufValue, ggufError } from "./container.ts";

/** Families whose layers with a window GGUF knows; in others a window ends the context. */
const windowed = ["gemma2", "gemma3"];

/** Other names that architectures go by. */
const aliases: Readonly<Record<string, string>> = {
  mistral: "llama",
  mixtral: "llama",
  qwen2_moe: "qwen2moe",
  qwen3_moe: "qwen3moe",
  gemma3_text: "gemma3",
  "bitnet-b1.58": "bitnet",
};

/** A configuration as GGUF has it: its keys, and vectors that become tensors. */
export interface GgufConfig {
  readonly metadata: Map<string, GgufEntry>;
  /** By role. */
  readonly vectors: ReadonlyMap<string, Float32Array>;
}

/**
 * The keys of a model's architecture. Reads them back, and throws `format-unsupported`/config where they would describe another model: a
 * GGUF that runs otherwise than its source is worse than none.
 */
export function writeConfig(source: ModelConfig): GgufConfig {
  const name = aliases[source.architecture] ?? source.architecture;
  const config = { ...source, architecture: name };
  const metadata = new Map<string, GgufEntry>();
  const u32 = (key: string, value: number | undefined): void => {
    if (value !== undefined) metadata.set(`${name}.${key}`, { type: "u32", value });
  };
  const f32 = (key: string, value: number | undefined): void => {
    if (value !== undefined) metadata.set(`${name}.${key}`, { type: "f32", value: Math.fround(value) });
  };
  const window = config.slidingWindow;
  const shortened = window !== undefined && !windowed.includes(name);
  const context = shortened ? Math.min(window, config.contextLength) : config.contextLength;
  metadata.set("general.architecture", { type: "string", value: name });
  metadata.set("general.type", { type: "string", value: "model" });
  if (config.name) metadata.set("general.name", { type: "string", value: config.name });
  u32("vocab_size", config.vocabularySize);
  u32("context_length", context);
  u32("embedding_length", config.embeddingSize);
  u32("block_count", config.layers);
  u32("feed_forward_length", config.feedForwardSize);
  u32("attention.head_count", config.heads);
  u32("attention.head_count_kv", config.kvHeads);
  u32("attention.key_length", config.keySize);
  u32("attention.value_length", config.valueSize);
  f32(
    name === "gpt2" || name === "bert" ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
    config.normEpsilon,
  );
  if (windowed.includes(name)) u32("attention.sliding_window", window ?? 0);
  if (windowed.includes(name) && window !== undefined) {
    u32("attention.sliding_window_pattern", config.slidingPattern);
  }
  f32("attn_logit_softcapping", config.attentionSoftcap);
  f32("final_logit_softcapping", config.finalSoftcap);
  if (config.causal === false) metadata.set(`${name}.attention.causal`, { type: "bool", value: false });
  if (config.pooling) u32("pooling_type", poolings.indexOf(config.pooling));
  if (config.activation === "relu-squared") {
    metadata.set(`${name}.hidden_act`, { type: "string", value: "relu2" });
  }
  const { experts, rope } = config;
  u32("expert_count", experts?.count);
  u32("expert_used_count", experts?.used);
  u32("expert_feed_forward_length", experts?.feedForwardSize);
  u32("expert_shared_feed_forward_length", experts?.sharedFeedForwardSize);
  u32("rope.dimension_count", rope?.dimensions);
  f32("rope.freq_base", rope?.base);
  if (rope?.localBase !== undefined) f32("rope.freq_base_swa", rope.localBase);
  const vectors = new Map<string, Float32Array>();
  writeScaling(rope?.scaling, config, { u32, f32, metadata, name, vectors });
  const written: ModelConfig = shortened ? withoutWindow(config, context) : config;
  check(written, metadata, vectors);
  return { metadata, vectors };
}

function withoutWindow({ slidingWindow: _, ...config }: ModelConfig, contextLength: number): ModelConfig {
  return { ...config, contextLength };
}

interface Keys {
  readonly name: string;
  readonly metadata: Map<string, GgufEntry>;
  readonly vectors: Map<string, Float32Array>;
  u32(key: string, value: number | undefined): void;
  f32(key: string, value: number | undefined): void;
}

function writeScaling(scaling: RopeScaling | undefined, config: ModelConfig, keys: Keys): void {
  const kind = (value: string): void =>
    void keys.metadata.set(`${keys.name}.rope.scaling.type`, { type: "string", value });
  switch (scaling?.kind) {
    case undefined:
      return;
    case "linear":
      kind("linear");
      keys.f32("rope.scaling.factor", scaling.factor);
      return;
    case "yarn":
      kind("yarn");
      keys.f32("rope.scaling.factor", scaling.factor);
      keys.u32("rope.scaling.original_context_length", scaling.originalContextLength);
      if ((scaling.attentionFactor ?? 1) !== 1) keys.f32("rope.scaling.attn_factor", scaling.attentionFactor);
      if ((scaling.extrapolationFactor ?? 1) !== 1) {
        keys.f32("rope.scaling.yarn_ext_factor", scaling.extrapolationFactor);
      }
      if ((scaling.betaFast ?? 32) !== 32) keys.f32("rope.scaling.yarn_beta_fast", scaling.betaFast);
      if ((scaling.betaSlow ?? 1) !== 1) keys.f32("rope.scaling.yarn_beta_slow", scaling.betaSlow);
      return;
    case "factors":
      if (scaling.originalContextLength !== undefined) {
        keys.u32("rope.scaling.original_context_length", scaling.originalContextLength);
      }
      keys.f32("rope.scaling.attn_factor", scaling.attentionFactor);
      return;
    case "llama3":
      keys.vectors.set("rope.factors", llama3Factors(scaling, config));
  }
}

/** Divisors of the frequencies (FORMATS: wavelengths longer than old / low are stretched, shorter than old / high stay). */
function llama3Factors(scaling: RopeScaling & { kind: "llama3" }, { rope }: ModelConfig): Float32Array {
  const { factor, originalContextLength: old, lowFrequencyFactor: low, highFrequencyFactor: high } = scaling;
  const { dimensions, base } = rope as NonNullable<ModelConfig["rope"]>;
  return Float32Array.from({ length: dimensions / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * portableMath.pow(base, (2 * i) / dimensions);
    if (wavelength < old / high) return 1;
    if (wavelength > old / low) return factor;
    const smooth = (old / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

/** Do the keys say what the configuration says? */
function check(
  config: ModelConfig,
  metadata: ReadonlyMap<string, GgufEntry>,
  vectors: ReadonlyMap<string, Float32Array>,
): void {
  const plain = new Map<string, GgufValue>([...metadata].map(([key, { value }]) => [key, value]));
  const { scaling } = config.rope ?? {};
  const long = scaling?.kind === "factors" && scaling.originalContextLength !== undefined;
  const factors =
    vectors.has("rope.factors") || (scaling?.kind === "factors" && !long)
      ? ["rope.factors"]
      : long
        ? ["rope.factors.long", "rope.factors.short"]
        : [];
  const shapes = new Map<string, readonly number[]>([
    ["embed", [config.vocabularySize, config.embeddingSize]],
    ...factors.map((role) => [role, [(config.rope?.dimensions ?? 0) / 2]] as const),
  ]);
  let read: ModelConfig;
  try {
    read = modelConfig(plain, (role) => shapes.get(role));
  } catch (cause) {
    const what = `GGUF has no keys for this model: ${LowbitError.is(cause) ? cause.message : String(cause)}`;
    throw ggufError("format-unsupported", "config", what, { cause });
  }
  const wanted = rounded({
    ...config,
    ...(config.rope && {
      rope: { ...config.rope, ...(vectors.size > 0 && { scaling: { kind: "factors" } }) },
    }),
  } as ModelConfig);
  const differs = difference(wanted, rounded(read));
  if (differs === undefined) return;
  throw ggufError("format-unsupported", "config", `GGUF cannot say that ${differs}.`, {
    hint: "Convert to a format of Hugging Face folders instead.",
  });
}

/** Numbers as the f32 that keys hold; defaults filled in. */
function rounded(config: ModelConfig): unknown {
  const { scaling } = config.rope ?? {};
  const full =
    scaling?.kind === "yarn"
      ? {
          ...config,
          rope: {
            ...config.rope,
            scaling: { extrapolationFactor: 1, attentionFactor: 1, betaFast: 32, betaSlow: 1, ...scaling },
          },
        }
      : config;
  return JSON.parse(JSON.stringify(full), (_, value: unknown) =>
    typeof value === "number" ? Math.fround(value) : value,
  );
}

/** The first place where two plain objects differ. */
function difference(a: unknown, b: unknown, path = ""): string | undefined {
  const isObject = (value: unknown): value is Record<string, unknown> =>
    typeof value === "object" && value !== null;
  if (!isObject(a) || !isObject(b)) {
    return a === b ? undefined : `${path} is ${JSON.stringify(a)} (it would be ${JSON.stringify(b)})`;
  }
  for (const key of new Set([...Object.keys(a), ...Object.keys(b)])) {
    const found = difference(a[key], b[key], path === "" ? key : `${path}.${key}`);
    if (found) return found;
  }
  return undefined;
}
