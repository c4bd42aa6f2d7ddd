import type { GgufEntry } from "@lowbit/gguf";

export type VocabularyKind = "spm" | "bpe";

/** Names of the three special tokens that every vocabulary here has. */
const bpeSpecials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] as const;

/**
 * Metadata of a made-up but valid vocabulary of exactly `size` tokens (at least 300): SentencePiece with byte tokens, or
 * byte-level BPE whose merges build every longer token.
 */
export function tinyVocabulary(kind: VocabularyKind, size: number, pre = "gpt-2"): Map<string, GgufEntry> {
  if (size < 300) throw new RangeError(`a vocabulary needs 300 tokens or more, not ${size}`);
  return kind === "spm" ? sentencePiece(size) : byteLevel(size, pre);
}

function sentencePiece(size: number): Map<string, GgufEntry> {
  const tokens = ["<unk>", "<s>", "</s>"];
  for (let byte = 0; byte < 256; byte++)
    tokens.push(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  const letters = ["\u2581", ..."etaoinshrdlucmfwypvbgkjqxz"];
  for (const word of words(letters)) {
    if (tokens.length === size) break;
    tokens.push(word);
  }
  const types = tokens.map((_, i) => (i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1));
  return new Map<string, GgufEntry>([
    ["tokenizer.ggml.model", { type: "string", value: "llama" }],
    ["tokenizer.ggml.pre", { type: "string", value: "default" }],
    ["tokenizer.ggml.tokens", { type: "string[]", value: tokens }],
    [
      "tokenizer.ggml.scores",
      { type: "f32[]", value: Float32Array.from(tokens, (_, i) => (i < 259 ? 0 : 258 - i)) },
    ],
    ["tokenizer.ggml.token_type", { type: "i32[]", value: Int32Array.from(types) }],
    ["tokenizer.ggml.bos_token_id", { type: "u32", value: 1 }],
    ["tokenizer.ggml.eos_token_id", { type: "u32", value: 2 }],
    ["tokenizer.ggml.unknown_token_id", { type: "u32", value: 0 }],
    ["tokenizer.ggml.add_bos_token", { type: "bool", value: true }],
  ]);
}

function byteLevel(size: number, pre: string): Map<string, GgufEntry> {
  const bytes = byteCharacters();
  const tokens: string[] = [];
  const merges: string[] = [];
  const ordinary = size - bpeSpecials.length;
  for (const word of byteWords(bytes)) {
    if (tokens.length === ordinary) break;
    tokens.push(word);
    const characters = [...word];
    const last = characters.pop();
    if (characters.length > 0) merges.push(`${characters.join("")} ${last}`);
  }
  tokens.push(...bpeSpecials);
  const types = tokens.map((_, i) => (i < ordinary ? 1 : 3));
  return new Map<string, GgufEntry>([
    ["tokenizer.ggml.model", { type: "string", value: "gpt2" }],
    ["tokenizer.ggml.pre", { type: "string", value: pre }],
    ["tokenizer.ggml.tokens", { type: "string[]", value: tokens }],
    ["tokenizer.ggml.token_type", { type: "i32[]", value: Int32Array.from(types) }],
    ["tokenizer.ggml.merges", { type: "string[]", value: merges }],
    ["tokenizer.ggml.bos_token_id", { type: "u32", value: ordinary }],
    ["tokenizer.ggml.eos_token_id", { type: "u32", value: size - 1 }],
    ["tokenizer.ggml.add_bos_token", { type: "bool", value: false }],
  ]);
}

/** Every byte, then words of ASCII letters: only single bytes can break UTF-8, so even random output is mostly text. */
function* byteWords(bytes: readonly string[]): Generator<string> {
  yield* bytes;
  for (const word of words(bytes.filter((letter) => /^[a-zA-Z]$/.test(letter)))) {
    if (word.length > 1) yield word;
  }
}

/** All words over the letters, shorter first, so that a word's beginning always comes before it. */
function* words(letters: readonly string[]): Generator<string> {
  let shorter = [""];
  for (;;) {
    const longer: string[] = [];
    for (const word of shorter) {
      for (const letter of letters) {
        yield word + letter;
        // No vocabulary here needs more than this many beginnings.
        if (longer.length < 100_000) longer.push(word + letter);
      }
    }
    shorter = longer;
  }
}

/** GPT-2's printable stand-ins: printable bytes stand for themselves, the others for U+0100 and up, in order. */
function byteCharacters(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCharCode(printable ? byte : next++);
  });
}
