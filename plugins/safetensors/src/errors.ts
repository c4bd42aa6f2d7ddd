import { LowbitError, type LowbitErrorCode } from "@lowbit/core";

/** An error of this plugin. `reason` is the precise word, `hint` what to do. */
export function safetensorsError(
  code: LowbitErrorCode,
  reason: string,
  message: string,
  options: { readonly hint?: string; readonly cause?: unknown } = {},
): LowbitError {
  return new LowbitError(code, message, { reason, plugin: "safetensors", ...options });
}
