import { awq } from "@lowbit/awq";
import { bitsandbytes } from "@lowbit/bitsandbytes";
import { compressedTensors } from "@lowbit/compressed-tensors";
import type { Plugin } from "@lowbit/core";
import { createEngine, type Engine } from "@lowbit/engine";
import { exl2 } from "@lowbit/exl2";
import { gguf } from "@lowbit/gguf";
import { gptq } from "@lowbit/gptq";
import { createGrammar } from "@lowbit/grammar";
import { hqq } from "@lowbit/hqq";
import { reference } from "@lowbit/kernels-reference";
import { wasm } from "@lowbit/kernels-wasm";
import { architectures } from "@lowbit/models";
import { type PlatformOptions, platform } from "@lowbit/platform";
import { safetensors } from "@lowbit/safetensors";
import { createTokenizer } from "@lowbit/tokenizers";

/** Every format and packing in this package. */
export function defaultPlugins(): Plugin[] {
  return [gguf(), safetensors(), gptq(), awq(), exl2(), bitsandbytes(), compressedTensors(), hqq()];
}

/** An engine with everything in this package: SIMD kernels first, then the reference in TypeScript. */
export function defaultEngine(options: PlatformOptions = {}): Engine {
  return createEngine({
    platform: platform(options),
    backends: [wasm(), reference()],
    plugins: defaultPlugins(),
    architectures,
    createTokenizer,
    createGrammar,
  });
}
