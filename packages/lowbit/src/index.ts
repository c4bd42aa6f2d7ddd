import {
  createEngine,
  type Engine,
  type Inspection,
  type LoadOptions,
  type Model,
  type ModelLocation,
} from "@lowbit/engine";
import { gguf } from "@lowbit/gguf";
import { reference } from "@lowbit/kernels-reference";
import { wasm } from "@lowbit/kernels-wasm";
import { architectures } from "@lowbit/models";
import { platform } from "@lowbit/platform";
import { createTokenizer } from "@lowbit/tokenizers";

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
  type Platform,
  type Plugin,
  type SamplingOptions,
  type Timings,
  type Tokenizer,
  type Usage,
} from "@lowbit/core";
export * from "@lowbit/engine";
export { gguf } from "@lowbit/gguf";
export { reference } from "@lowbit/kernels-reference";
export { type WasmOptions, wasm } from "@lowbit/kernels-wasm";
export { architectures } from "@lowbit/models";
export { type PlatformOptions, platform } from "@lowbit/platform";
export { createTokenizer } from "@lowbit/tokenizers";

/** An engine with everything in this package: SIMD kernels first, then the reference in TypeScript. */
export function defaultEngine(): Engine {
  return createEngine({
    platform: platform(),
    backends: [wasm(), reference()],
    plugins: [gguf()],
    architectures,
    createTokenizer,
  });
}

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
