import type { Inspection, LoadOptions, Model, ModelLocation } from "@lowbit/engine";
import { defaultEngine } from "./defaults.ts";

export { awq } from "@lowbit/awq";
export { bitsandbytes } from "@lowbit/bitsandbytes";
export { compressedTensors } from "@lowbit/compressed-tensors";
export {
  type ConversionProgress,
  type ConversionReport,
  type Fidelity,
  memoryOutput,
  targetNames,
  type WeightReport,
} from "@lowbit/convert";

// What users meet in their own code; contracts for plugin authors are in @lowbit/core.
export {
  type Architecture,
  type BackendFactory,
  type ByteSource,
  blobSource,
  type ChatMessage,
  type Completion,
  definePlugin,
  type FileSet,
  type GenerateEvent,
  type GenerateRequest,
  type KvType,
  LowbitError,
  type LowbitErrorCode,
  type ModelConfig,
  memorySource,
  type OutputPlace,
  type Platform,
  type Plugin,
  type SamplingOptions,
  type Timings,
  type Tokenizer,
  type Usage,
} from "@lowbit/core";
export * from "@lowbit/engine";
export { exl2 } from "@lowbit/exl2";
export { gguf } from "@lowbit/gguf";
export { gptq } from "@lowbit/gptq";
export { hqq } from "@lowbit/hqq";
export { reference } from "@lowbit/kernels-reference";
export { type WasmOptions, wasm } from "@lowbit/kernels-wasm";
export { architectures } from "@lowbit/models";
export { type OutputOptions, outputPlace, type PlatformOptions, platform } from "@lowbit/platform";
export { safetensors } from "@lowbit/safetensors";
export { createTokenizer } from "@lowbit/tokenizers";
export { type ConvertOptions, convert } from "./convert.ts";
export { defaultEngine, defaultPlugins } from "./defaults.ts";

/**
 * Loads a model from a path, a URL, a Blob or bytes.
 *
 * Throws a LowbitError: `not-found`, `format-unsupported`, `file-corrupt`, `architecture-unsupported`, `weight-missing`,
 * `backend-unavailable`, `out-of-memory` (before any weight is read), `aborted` or `bad-argument`.
 */
export function load(location: ModelLocation, options?: LoadOptions): Promise<Model> {
  return defaultEngine().load(location, options);
}

/** What can be told about a model without reading its weights: tensors, layouts, memory plan, and why it would not load. */
export function inspect(location: ModelLocation, options?: LoadOptions): Promise<Inspection> {
  return defaultEngine().inspect(location, options);
}
