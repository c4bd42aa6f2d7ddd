import type {
  InspectOptions as EngineInspectOptions,
  LoadOptions as EngineLoadOptions,
  Inspection,
  Model,
  ModelLocation,
} from "@lowbit/engine";
import { type CacheStore, memoryPresets, type PlatformOptions } from "@lowbit/platform";
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
  type ResponseFormat,
  type SamplingOptions,
  type Timings,
  type Tokenizer,
  type ToolCall,
  type ToolChoice,
  type Usage,
} from "@lowbit/core";
export * from "@lowbit/engine";
export { exl2 } from "@lowbit/exl2";
export { gguf } from "@lowbit/gguf";
export { gptq } from "@lowbit/gptq";
export { createGrammar } from "@lowbit/grammar";
export { hqq } from "@lowbit/hqq";
export { reference } from "@lowbit/kernels-reference";
export { type WasmOptions, wasm } from "@lowbit/kernels-wasm";
export { architectures } from "@lowbit/models";
export {
  assetFiles,
  type CacheEntry,
  type CacheOptions,
  type CacheStore,
  cached,
  cacheEntries,
  defaultCache,
  directoryFiles,
  kvFiles,
  type MemoryPreset,
  memoryPresets,
  type OutputOptions,
  opfsCache,
  outputPlace,
  type PlatformOptions,
  piecedFiles,
  platform,
  r2Files,
  removeFromCache,
  verifyCacheEntry,
  webCache,
  writePieces,
} from "@lowbit/platform";
export { safetensors } from "@lowbit/safetensors";
export { createTokenizer } from "@lowbit/tokenizers";
export { type ConvertOptions, convert } from "./convert.ts";
export { defaultEngine, defaultPlugins } from "./defaults.ts";

export interface LoadOptions extends EngineLoadOptions {
  /**
   * Keeps what `hf:` and `http(s):` locations hold: true in the runtime's own place (a folder, the origin private file system, the Cache
   * API), or a store. Other locations are read where they are.
   * @default false
   */
  cache?: boolean | CacheStore;
}

/**
 * Loads a model from a path, a URL, `hf:org/repository`, a Blob, bytes, or a set of files such as `r2Files()`.
 *
 * Throws a LowbitError: `not-found`, `format-unsupported`, `file-corrupt`, `architecture-unsupported`, `weight-missing`,
 * `backend-unavailable`, `out-of-memory` (before any weight is read), `aborted` or `bad-argument`.
 */
export function load(location: ModelLocation, options: LoadOptions = {}): Promise<Model> {
  const { cache, ...rest } = options;
  return defaultEngine(platformOptions(options)).load(location, rest);
}

export interface InspectOptions extends LoadOptions, EngineInspectOptions {
  /** Memory limits to plan for, in bytes by name. @default those of `memoryPresets` */
  limits?: Readonly<Record<string, number>>;
}

/**
 * What can be told about a model without reading its weights: tensors, layouts, memory plan, why it would not load, and how it would fit
 * where memory is known (`fits.workers`).
 */
export function inspect(location: ModelLocation, options: InspectOptions = {}): Promise<Inspection> {
  const { cache, limits = presetLimits(), ...rest } = options;
  return defaultEngine(platformOptions(options)).inspect(location, { ...rest, limits });
}

function presetLimits(): Record<string, number> {
  return Object.fromEntries(
    Object.entries(memoryPresets).map(([name, { limitBytes }]) => [name, limitBytes]),
  );
}

function platformOptions({ cache, onProgress }: LoadOptions): PlatformOptions {
  return {
    ...(cache !== undefined && { cache }),
    ...(onProgress && { onDownload: (progress) => onProgress({ phase: "download", ...progress }) }),
  };
}
