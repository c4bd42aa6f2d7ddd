import type { JsonValue, LowbitError, LowbitErrorCode, SafetensorsTensor } from "@lowbit/core";
import { floatsOf, type ModuleTensors, packingError } from "@lowbit/packing";

/** What errors of all packings here go by. */
export const packingName = "compressed-tensors";

export type Metadata = Map<string, string | number | boolean>;

/** Not needed to read a weight: scales of activations, which stay floats here. */
export const unread: readonly string[] = [
  "input_scale",
  "input_global_scale",
  "output_scale",
  "input_zero_point",
  "output_zero_point",
];

/** Scales as f32. Throws non-finite-scale. */
export async function finiteFloats(
  site: ModuleTensors,
  tensor: SafetensorsTensor,
  signal?: AbortSignal,
): Promise<Float32Array> {
  const { buffer, byteOffset, byteLength } = await site.scaleBits(tensor, signal);
  return floatsOf(tensor, new Uint8Array(buffer, byteOffset, byteLength));
}

export function member(value: JsonValue | undefined, ...path: readonly string[]): JsonValue | undefined {
  for (const key of path) value = value instanceof Map ? value.get(key) : undefined;
  return value ?? undefined;
}

export function fail(
  reason: string,
  what: string,
  code: LowbitErrorCode = "file-corrupt",
  hint?: string,
): LowbitError {
  return packingError(packingName, reason, what, code, hint === undefined ? {} : { hint });
}

/** A setting of the configuration is not what it may be. */
export function invalid(what: string): LowbitError {
  return fail("invalid-config", what);
}
