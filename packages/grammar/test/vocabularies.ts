import { readFileSync } from "node:fs";
import type { Tokenizer } from "@lowbit/core";
import { picoHuggingFace } from "@lowbit/pico";
import { createTokenizer } from "@lowbit/tokenizers";

/** The tokenizer of the model in this repository: bytes, and 763 longer tokens, among them `"},` and the like. */
export function picoTokenizer(): Tokenizer {
  const read = (name: string): unknown =>
    JSON.parse(readFileSync(new URL(name, `${picoHuggingFace}`), "utf8"));
  return createTokenizer({
    kind: "huggingface",
    tokenizer: read("tokenizer.json"),
    config: read("tokenizer_config.json"),
  });
}

export interface MadeTokenizer {
  /** Tokens as they stand in a text; bytes where a number. */
  readonly tokens?: readonly string[];
  /** Special tokens by name. */
  readonly special?: readonly string[];
  readonly chatTemplate?: string;
}

/** Bytes are tokens 0 to 255; then the given ones; then special ones; the last ends a text. */
export function madeTokenizer({ tokens = [], special = [], chatTemplate }: MadeTokenizer = {}): Tokenizer {
  const encoder = new TextEncoder();
  const specials = [...special, "<end>"];
  const firstSpecial = 256 + tokens.length;
  const end = firstSpecial + special.length;
  const nothing = new Uint8Array(0);
  const name = (id: number): string | undefined =>
    id < 256 ? String.fromCharCode(id) : id < firstSpecial ? tokens[id - 256] : specials[id - firstSpecial];
  const bytes = (id: number): Uint8Array => {
    if (id < 256) return Uint8Array.of(id);
    return id < firstSpecial ? encoder.encode(tokens[id - 256]) : nothing;
  };
  const stream: Tokenizer["stream"] = () => {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return { push: (id) => decoder.decode(bytes(id), { stream: true }), flush: () => decoder.decode() };
  };
  return {
    kind: "made",
    vocabularySize: end + 1,
    bos: undefined,
    eos: end,
    endTokens: new Set([end]),
    encode: (text) => [...encoder.encode(text)],
    decode(ids) {
      const read = stream();
      return ids.map((id) => read.push(id)).join("") + read.flush();
    },
    bytes,
    token: name,
    id(token) {
      const at = tokens.indexOf(token);
      const specialAt = specials.indexOf(token);
      return at >= 0 ? 256 + at : specialAt >= 0 ? firstSpecial + specialAt : undefined;
    },
    isSpecial: (id) => id >= firstSpecial,
    stream,
    ...(chatTemplate !== undefined && { chatTemplate }),
    renderChat: () => "",
  };
}
