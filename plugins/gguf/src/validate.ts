import {
  type DenseFormat,
  planOf,
  type QuantType,
  readField,
  type ScaleFormat,
  throwIfAborted,
} from "@lowbit/core";
import type { GgufCheckpoint } from "./checkpoint.ts";
import { ggufError } from "./container.ts";

/**
 * Reads every tensor and throws `file-corrupt` at the first scale (reason "non-finite-scale") or plain number
 * (reason "non-finite-value") that is NaN or infinite. Opening a model does not do this, since it reads all of the file.
 */
export async function validateGguf(
  checkpoint: Pick<GgufCheckpoint, "headers" | "blocks">,
  signal?: AbortSignal,
): Promise<void> {
  for (const { tensors } of checkpoint.headers) {
    for (const { name, type } of tensors) {
      throwIfAborted(signal);
      const block = firstNonFinite(type, await checkpoint.blocks(name, signal));
      if (block === undefined) continue;
      const what = type.values.kind === "dense" ? "value" : "scale";
      throw ggufError(
        "file-corrupt",
        `non-finite-${what}`,
        `Tensor ${name} has a NaN or infinite ${what} (${type.name} block ${block}).`,
        {
          hint: "The file is damaged, or quantization overflowed; fetch or convert it again.",
        },
      );
    }
  }
}

/** All bits of the exponent; a number that has them all is NaN or infinite. */
const exponents: Partial<Record<ScaleFormat, number>> = { f16: 0x7c00, bf16: 0x7f80, f32: 0x7f800000 };

/** The same for the upper two bytes of a dense number. */
const upperExponents: Partial<Record<DenseFormat, number>> = {
  f16: 0x7c00,
  bf16: 0x7f80,
  f32: 0x7f80,
  f64: 0x7ff0,
};

/** Number of the first block with a scale, or value, that is not finite. */
function firstNonFinite(type: QuantType, bytes: Uint8Array): number | undefined {
  if (type.values.kind === "dense") return firstNonFiniteValue(type.values.format, type.bytes, bytes);
  const { scale, min } = planOf(type);
  for (const field of [scale.super, min?.super]) {
    const mask = field && exponents[field.format];
    if (field === undefined || mask === undefined) continue;
    for (let start = 0; start + type.bytes <= bytes.length; start += type.bytes) {
      const block = bytes.subarray(start, start + type.bytes);
      for (let i = 0; i < field.count; i++) {
        if ((readField(field, block, i) & mask) === mask) return start / type.bytes;
      }
    }
  }
  return undefined;
}

function firstNonFiniteValue(format: DenseFormat, size: number, bytes: Uint8Array): number | undefined {
  const mask = upperExponents[format];
  if (mask === undefined) return undefined;
  for (let end = size; end <= bytes.length; end += size) {
    const upper = (bytes[end - 1] ?? 0) * 256 + (bytes[end - 2] ?? 0);
    if ((upper & mask) === mask) return end / size - 1;
  }
  return undefined;
}
