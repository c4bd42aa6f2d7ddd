import type { Tokenizer, TokenizerSource } from "@lowbit/core";
import { tokenizerFromGgml } from "./from-ggml.ts";
import { tokenizerFromHuggingFace } from "./from-huggingface.ts";

export { chatTemplate } from "./chat-template.ts";

/**
 * Builds a model's tokenizer, with `renderChat` where the source has a chat template.
 * Throws `file-corrupt` for a description that contradicts itself and `format-unsupported` for a kind of
 * tokenizer, pre-tokenizer or pattern that isn't known.
 */
export function createTokenizer(source: TokenizerSource): Tokenizer {
  return source.kind === "ggml"
    ? tokenizerFromGgml(source.metadata)
    : tokenizerFromHuggingFace(source.tokenizer, source.config, source.endTokens);
}
