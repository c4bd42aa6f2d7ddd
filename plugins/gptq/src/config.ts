import type { JsonValue, PackedCheckpoint } from "@lowbit/core";
import { compilePattern, packingError } from "@lowbit/packing";

/** How the modules of a GPTQ checkpoint are packed. */
export interface GptqConfig extends ModuleConfig {
  /** Stored zero points are one too small ("gptq"), or plain; "gptq_p" packs in planes, with plain zero points. */
  readonly format: (typeof gptqFormats)[number];
  /** "lm_head" is declared to be quantized. */
  readonly head: boolean;
  /** The first that matches a module's name wins; without settings it is not quantized. */
  readonly overrides: readonly {
    readonly matches: (module: string) => boolean;
    readonly settings?: JsonObject;
  }[];
}

export interface ModuleConfig {
  readonly bits: number;
  /** Inputs that share a scale; −1 for all. */
  readonly group: number;
  readonly symmetric: boolean;
  /** Inputs may be assigned to groups in any order. */
  readonly actOrder: boolean;
}

type JsonObject = ReadonlyMap<string, JsonValue>;

export const gptqFormats = ["gptq", "gptq_v2", "gptq_p"] as const;
export const continuousBits: readonly number[] = [2, 3, 4, 8];
export const planarBits: readonly number[] = [2, 3, 4, 5, 6, 7, 8];
const maxOverrides = 1000;

export function bitsOf(format: GptqConfig["format"]): readonly number[] {
  return format === "gptq_p" ? planarBits : continuousBits;
}

/** Inputs and outputs come in multiples of this: they fill words; in planes and with 3 bits, as many words as a code has bits. */
export function unitOf(bits: number, format: GptqConfig["format"]): number {
  return format === "gptq_p" || 32 % bits !== 0 ? 32 : 32 / bits;
}

/**
 * Reads quantize_config.json or config.json's quantization_config, under the names of every tool that wrote them. Throws
 * invalid-config, unsupported-bits, or unsupported-variant for kernels' own layouts.
 */
export function gptqConfig({ quantization, quantizationFile, name }: PackedCheckpoint): GptqConfig {
  if (!(quantization instanceof Map)) {
    throw gptqError("missing-config", `${name} has GPTQ tensors, but nothing says of how many bits`, {
      hint: "Put quantize_config.json beside it.",
    });
  }
  const file = `${name}: ${quantizationFile ?? "the quantization config"}`;
  const declared =
    text(quantization, file, "checkpoint_format") ?? text(quantization, file, "format") ?? "gptq";
  const marlin = quantization.get("is_marlin_format") === true || declared === "marlin";
  const format = gptqFormats.find((known) => known === declared);
  if (marlin || !format) refuseVariant(file, marlin ? "marlin" : declared);
  const method = text(quantization, file, "method") ?? "gptq";
  if (method !== "gptq") refuseVariant(file, method);
  const word = text(quantization, file, "pack_dtype") ?? "int32";
  if (word !== "int32") refuseVariant(file, `pack_dtype ${word}`);
  const adapter = quantization.get("adapter");
  if (adapter instanceof Map && adapter.size > 0) refuseVariant(file, "an adapter beside the weights (EoRA)");
  const base = { bits: 4, group: -1, symmetric: true, actOrder: false };
  if (!quantization.has("bits") && !quantization.has("w_bit")) {
    throw gptqError("invalid-config", `${file} does not say how many bits a code has`);
  }
  return {
    ...settings(quantization, file, base, bitsOf(format)),
    format,
    head: quantization.get("lm_head") === true,
    overrides: overrides(quantization.get("dynamic"), file),
  };
}

/** The settings of one module; undefined where it is not quantized. */
export function moduleConfig(config: GptqConfig, module: string, file: string): ModuleConfig | undefined {
  const override = config.overrides.find(({ matches }) => matches(module));
  if (override === undefined) return config;
  const where = `${file}: the override for ${module}`;
  return override.settings && settings(override.settings, where, config, bitsOf(config.format));
}

function settings(
  object: JsonObject,
  file: string,
  base: ModuleConfig,
  possibleBits: readonly number[],
): ModuleConfig {
  const bits = integer(object, file, "bits", "w_bit") ?? base.bits;
  if (!possibleBits.includes(bits)) {
    throw packingError(
      "gptq",
      "unsupported-bits",
      `${file}: codes of ${bits} bits are not possible here, only of ${possibleBits.join(", ")}`,
      "type-unsupported",
    );
  }
  const group = integer(object, file, "group_size", "q_group_size") ?? base.group;
  if (group !== -1 && group < 1) {
    throw gptqError("invalid-config", `${file}: group_size is ${group}; −1 or a positive number is possible`);
  }
  return {
    bits,
    group,
    symmetric: flag(object, file, "sym") ?? base.symmetric,
    actOrder: flag(object, file, "desc_act") ?? base.actOrder,
  };
}

/** GPTQModel's `dynamic`: patterns to settings; "-:" in front excludes, "+:" or nothing overrides. */
function overrides(value: JsonValue | undefined, file: string): GptqConfig["overrides"] {
  if (value === undefined || value === null) return [];
  if (!(value instanceof Map) || value.size > maxOverrides) {
    throw gptqError(
      "invalid-config",
      `${file}: "dynamic" is not an object of at most ${maxOverrides} patterns`,
    );
  }
  return [...(value as JsonObject)].map(([key, settings]) => {
    const matches = compilePattern(key.replace(/^[+-]:/, ""));
    if (key.startsWith("-:")) return { matches };
    if (!(settings instanceof Map)) {
      throw gptqError("invalid-config", `${file}: "dynamic" has no settings for ${JSON.stringify(key)}`);
    }
    return { matches, settings: settings as JsonObject };
  });
}

function integer(object: JsonObject, file: string, ...keys: readonly string[]): number | undefined {
  const key = keys.find((key) => object.has(key));
  const value = key === undefined ? undefined : object.get(key);
  if (value === undefined || Number.isSafeInteger(value)) return value as number | undefined;
  throw gptqError("invalid-config", `${file}: ${key} is ${JSON.stringify(value)}, not a whole number`);
}

function flag(object: JsonObject, file: string, key: string): boolean | undefined {
  const value = object.get(key) ?? undefined;
  if (value === undefined || typeof value === "boolean") return value;
  throw gptqError("invalid-config", `${file}: ${key} is ${JSON.stringify(value)}, not true or false`);
}

function text(object: JsonObject, file: string, key: string): string | undefined {
  const value = object.get(key) ?? undefined;
  if (value === undefined) return undefined;
  if (typeof value === "string") return value.toLowerCase().replace(/^torch\./, "");
  throw gptqError("invalid-config", `${file}: ${key} is ${JSON.stringify(value)}, not a text`);
}

/** Throws unsupported-variant. */
export function refuseVariant(file: string, variant: string): never {
  throw packingError("gptq", "unsupported-variant", `${file}: ${variant} is not read`, "format-unsupported", {
    hint: "Use the model's checkpoint in the plain GPTQ layout, or convert it with the tool that repacked it.",
  });
}

export function gptqError(reason: string, what: string, options: { hint?: string } = {}): Error {
  return packingError("gptq", reason, what, "file-corrupt", options);
}
