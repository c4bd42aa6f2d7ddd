import type { Architecture } from "@lowbit/core";
import { bitnet } from "./bitnet.ts";
import { gemma, gemma2, gemma3 } from "./gemma.ts";
import { gpt2 } from "./gpt2.ts";
import { llama } from "./llama.ts";
import { phi3 } from "./phi.ts";
import { qwen2, qwen3 } from "./qwen.ts";

/** Every family there is, for `createEngine`. */
export const architectures: readonly Architecture[] = [
  llama,
  qwen2,
  qwen3,
  gemma,
  gemma2,
  gemma3,
  phi3,
  gpt2,
  bitnet,
];

export * from "./blocks.ts";
export * from "./decoder.ts";
export * from "./rope.ts";
export * from "./specs.ts";
export { bitnet, gemma, gemma2, gemma3, gpt2, llama, phi3, qwen2, qwen3 };
