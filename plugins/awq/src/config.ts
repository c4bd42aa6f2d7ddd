import type { JsonValue, PackedCheckpoint } from "@lowbit/core";
import { packingError } from "@lowbit/packing";

/** How codes lie: "gemm" along the outputs, "gemv" along the inputs, "gemv_fast" in tiles of four outputs. */
export type Layout = "gemm" | "gemv" | "gemv_fast";

export interface AwqConfig {
  /** Inputs that share a scale; −1 for all. */
  readonly group: number;
  readonly layout: Layout;
  /** Parts of names of modules that are not quantized. */
  readonly plain: readonly string[];
}

/** "marlin" and "exllama" choose kernels at run time; the file is gemm's. */
const layouts: Readonly<Record<string, Layout>> = {
  gemm: "gemm",
  gemv: "gemv",
  gemv_fast: "gemv_fast",
  marlin: "gemm",
  exllama: "gemm",
};

/**
 * Reads config.json's quantization_config or AutoAWQ's own quant_config.json. Throws invalid-config, unsupported-bits (AWQ packs 4 bits
 * only) or unsupported-variant.
 */
export function awqConfig({ quantization, quantizationFile, name }: PackedCheckpoint): AwqConfig {
  const file = `${name}: ${quantizationFile ?? "the quantization config"}`;
  if (!(quantization instanceof Map)) {
    throw awqError("missing-config", `${name} has AWQ tensors, but nothing says how they are packed`, {
      hint: "Put quant_config.json beside it.",
    });
  }
  const value = (...keys: readonly string[]): JsonValue | undefined =>
    keys.map((key) => quantization.get(key) ?? undefined).find((found) => found !== undefined);
  const integer = (absent: number, ...keys: readonly string[]): number => {
    const found = value(...keys) ?? absent;
    if (Number.isSafeInteger(found)) return found as number;
    throw awqError("invalid-config", `${file}: ${keys[0]} is ${JSON.stringify(found)}, not a whole number`);
  };
  const bits = integer(4, "bits", "w_bit");
  if (bits !== 4) {
    const what = `${file}: codes of ${bits} bits are not possible, AWQ packs 4`;
    throw packingError("awq", "unsupported-bits", what, "type-unsupported");
  }
  const group = integer(128, "group_size", "q_group_size");
  if (group !== -1 && group < 1) {
    throw awqError("invalid-config", `${file}: group_size is ${group}; −1 or a positive number is possible`);
  }
  if (value("zero_point") === false) {
    const what = `${file}: AWQ without zero points is not read`;
    throw packingError("awq", "unsupported-variant", what, "format-unsupported");
  }
  const version = value("version") ?? "gemm";
  const layout = typeof version === "string" ? layouts[version.toLowerCase()] : undefined;
  if (!layout || !Object.hasOwn(layouts, String(version).toLowerCase())) {
    const known = Object.keys(layouts).join(", ");
    const what = `${file}: version ${JSON.stringify(version)} is not known; ${known} are`;
    throw packingError("awq", "unsupported-variant", what, "format-unsupported");
  }
  const plain = value("modules_to_not_convert") ?? [];
  if (!Array.isArray(plain) || !plain.every((item) => typeof item === "string")) {
    throw awqError("invalid-config", `${file}: modules_to_not_convert is no list of names`);
  }
  return { group, layout, plain };
}

export function awqError(reason: string, what: string, options: { hint?: string } = {}): Error {
  return packingError("awq", reason, what, "file-corrupt", options);
}
