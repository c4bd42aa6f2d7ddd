import type { CheckpointSource, PlainJson } from "@lowbit/core";
import { ggmlTokenizer } from "./ggml-tokenizer.ts";

/** The files that make up a tokenizer, and what config.json repeats of it. */
export interface TokenizerFiles {
  readonly files: ReadonlyMap<string, Uint8Array>;
  /** bos_token_id and its like. */
  readonly ids: { readonly [key: string]: PlainJson };
}

/** Files that say how the source's weights are stored. */
const notCopied = ["config.json"];

/**
 * A source that is such a folder itself has its files copied as they are. Others' tokenizers are made into tokenizer.json and what goes
 * with it. Throws as `ggmlTokenizer` does.
 */
export async function tokenizerFiles(source: CheckpointSource): Promise<TokenizerFiles> {
  const { tokenizer, companions, format } = source;
  const copied = format === "safetensors" ? await companions?.() : undefined;
  if (copied) {
    return { files: new Map([...copied].filter(([name]) => !notCopied.includes(name))), ids: {} };
  }
  if (tokenizer === undefined) return { files: new Map(), ids: {} };
  if (tokenizer.kind === "huggingface") {
    return {
      files: new Map([
        ["tokenizer.json", json(tokenizer.tokenizer)],
        ...(tokenizer.config === undefined
          ? []
          : ([["tokenizer_config.json", json(tokenizer.config)]] as const)),
      ]),
      ids: {},
    };
  }
  const made = ggmlTokenizer(tokenizer.metadata, source.config.contextLength);
  if (made === undefined) return { files: new Map(), ids: {} };
  return {
    files: new Map([
      ["tokenizer.json", json(made.tokenizer)],
      ["tokenizer_config.json", json(made.settings)],
      ["special_tokens_map.json", json(made.special)],
      ["generation_config.json", json(made.generation)],
    ]),
    ids: made.ids,
  };
}

function json(value: unknown): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value, null, 1)}\n`);
}
