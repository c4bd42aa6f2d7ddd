import { gpt2Pattern, type PlainJson, preTokenizers } from "@lowbit/core";
import { safetensorsError } from "../errors.ts";
import { type GgmlVocabulary, tokenTypes } from "./ggml-vocabulary.ts";
import type { JsonFields } from "./json-fields.ts";

/** How one kind of tokenizer is said in tokenizer.json. */
export interface ModelParts {
  readonly normalizer: JsonFields | null;
  readonly preTokenizer: JsonFields | null;
  readonly decoder: JsonFields;
  readonly model: JsonFields;
  /** Where there is nothing to put around a text. */
  readonly postProcessor: JsonFields | null;
  /** What is used where the file does not say. */
  readonly defaults: {
    readonly bos?: number;
    readonly eos?: number;
    readonly unknown?: number;
    readonly addBos: boolean;
    readonly addEos: boolean;
  };
  /** A token as tokenizer.json writes it. */
  readonly spell?: (token: string, id: number) => string;
}

const spaceMark = "\u2581";

/** By `tokenizer.ggml.model`. */
export const ggmlModels: Readonly<Record<string, (vocabulary: GgmlVocabulary) => ModelParts>> = {
  gpt2: byteLevel,
  llama: sentencePiece,
  t5: unigram,
  bert: wordPiece,
};

function byteLevel(vocabulary: GgmlVocabulary): ModelParts {
  const name = vocabulary.text("pre");
  const family = preTokenizers.find(({ names }) => name !== undefined && names.includes(name));
  if (family === undefined) {
    const what = `The pre-tokenizer ${JSON.stringify(name ?? null)} (tokenizer.ggml.pre) is not known.`;
    throw safetensorsError("format-unsupported", "unknown-pre-tokenizer", what);
  }
  const isPlain = family.patterns.length === 1 && family.patterns[0] === gpt2Pattern;
  const prefix = vocabulary.flag("add_space_prefix") ?? false;
  if (prefix && !isPlain) {
    const what = `A space before each text (add_space_prefix) cannot be said together with the pre-tokenizer ${name}.`;
    throw safetensorsError("format-unsupported", "unknown-tokenizer", what);
  }
  const bytes = { type: "ByteLevel", add_prefix_space: prefix, trim_offsets: true, use_regex: isPlain };
  const cuts = family.patterns.map((Regex) => ({
    type: "Split",
    pattern: { Regex },
    behavior: "Isolated",
    invert: false,
  }));
  return {
    normalizer: null,
    preTokenizer: isPlain ? bytes : { type: "Sequence", pretokenizers: [...cuts, bytes] },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    postProcessor: { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true },
    model: {
      ...bpe,
      unk_token: tokenOf(vocabulary, vocabulary.special("unknown")),
      ignore_merges: family.ignoreMerges ?? false,
      vocab: vocabOf(vocabulary),
      merges: mergesOf(vocabulary.strings("merges").map(cutMerge)),
    },
    defaults: { bos: 11, eos: 11, addBos: family.addBos ?? false, addEos: false },
  };
}

const bpe = {
  type: "BPE",
  dropout: null,
  continuing_subword_prefix: null,
  end_of_word_suffix: null,
  fuse_unk: false,
  byte_fallback: false,
} as const;

/** SentencePiece's merging by score as merging by rank, as transformers has it. */
function sentencePiece(vocabulary: GgmlVocabulary): ModelParts {
  const prefix = vocabulary.flag("add_space_prefix") ?? true;
  return {
    ...markedSpaces(prefix),
    model: {
      ...bpe,
      unk_token: tokenOf(vocabulary, vocabulary.special("unknown", 0)),
      byte_fallback: true,
      ignore_merges: false,
      vocab: vocabOf(vocabulary),
      merges: mergesOf(scoredMerges(vocabulary)),
    },
    defaults: { bos: 1, eos: 2, unknown: 0, addBos: true, addEos: false },
  };
}

/** Spaces become marks, one before the text if wanted; words are not cut. */
function markedSpaces(
  prefix: boolean,
  before: readonly JsonFields[] = [],
): Pick<ModelParts, "normalizer" | "preTokenizer" | "decoder" | "postProcessor"> {
  const replace = (text: string, content: string): JsonFields => ({
    type: "Replace",
    pattern: { String: text },
    content,
  });
  const normalizers = [
    ...before,
    ...(prefix ? [{ type: "Prepend", prepend: spaceMark }] : []),
    replace(" ", spaceMark),
  ];
  return {
    normalizer: { type: "Sequence", normalizers },
    preTokenizer: null,
    postProcessor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        replace(spaceMark, " "),
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
  };
}

/**
 * For each token, best score first, all pairs of tokens that make it. Scores of two tokens are hardly ever equal; where they are,
 * SentencePiece would take the leftmost, and ranks the lower id.
 */
function scoredMerges(vocabulary: GgmlVocabulary): [string, string][] {
  const { tokens } = vocabulary;
  const scores = vocabulary.numbers("scores");
  if (scores === undefined) {
    throw safetensorsError("file-corrupt", "missing-metadata", "tokenizer.ggml.scores is missing.");
  }
  const order = Array.from(tokens, (_, id) => id).sort((a, b) => scores[b]! - scores[a]! || a - b);
  return order.flatMap((id) => {
    const token = tokens[id] ?? "";
    const pairs: [string, string][] = [];
    for (let cut = token.length - 1; cut > 0; cut--) {
      const [left, right] = [token.slice(0, cut), token.slice(cut)];
      if (vocabulary.id(left) !== undefined && vocabulary.id(right) !== undefined) pairs.push([left, right]);
    }
    return pairs;
  });
}

/** Oniguruma's ^ and $ also stand at the ends of lines. */
const outerSpaces = "(?<![\\s\\S]) +| +(?![\\s\\S])";

function unigram(vocabulary: GgmlVocabulary): ModelParts {
  const map = vocabulary.bytes("precompiled_charsmap");
  const scores = vocabulary.numbers("scores");
  const unknown = vocabulary.special("unknown", 2) ?? 0;
  if (scores === undefined) {
    throw safetensorsError("file-corrupt", "missing-metadata", "tokenizer.ggml.scores is missing.");
  }
  const replace = (Regex: string, content: string): JsonFields => ({
    type: "Replace",
    pattern: { Regex },
    content,
  });
  return {
    ...markedSpaces(vocabulary.flag("add_space_prefix") ?? false, [
      ...(map ? [{ type: "Precompiled", precompiled_charsmap: base64(map) }] : []),
      ...(vocabulary.flag("remove_extra_whitespaces")
        ? [replace(outerSpaces, ""), replace(" {2,}", " ")]
        : []),
    ]),
    model: {
      type: "Unigram",
      unk_id: unknown,
      vocab: vocabulary.tokens.map((token, id) => [token, scores[id] ?? 0]),
      byte_fallback: false,
    },
    defaults: { eos: 1, unknown: 2, addBos: false, addEos: true },
  };
}

function wordPiece(vocabulary: GgmlVocabulary): ModelParts {
  // Words begin with a mark and their other pieces are bare; tokenizer.json marks the other pieces.
  const spell = (token: string, id: number): string => {
    if (token.startsWith(spaceMark)) return token.slice(1);
    return vocabulary.type(id) === tokenTypes.normal && token !== "" ? `##${token}` : token;
  };
  const vocab = new Map(vocabulary.tokens.map((token, id) => [spell(token, id), id]));
  const unknown = vocabulary.special("unknown", 100);
  return {
    normalizer: {
      type: "BertNormalizer",
      clean_text: true,
      handle_chinese_chars: true,
      strip_accents: vocabulary.flag("normalizer.strip_accents") ?? null,
      lowercase: vocabulary.flag("normalizer.lowercase") ?? true,
    },
    preTokenizer: { type: "BertPreTokenizer" },
    postProcessor: null,
    decoder: { type: "WordPiece", prefix: "##", cleanup: false },
    model: {
      type: "WordPiece",
      unk_token: tokenOf(vocabulary, unknown),
      continuing_subword_prefix: "##",
      // GGUF knows no limit.
      max_input_chars_per_word: 1_000_000_000,
      vocab: Object.fromEntries(vocab),
    },
    defaults: { bos: 101, eos: 102, unknown: 100, addBos: true, addEos: true },
    spell,
  };
}

function tokenOf({ tokens }: GgmlVocabulary, id: number | undefined): string | null {
  return id === undefined ? null : (tokens[id] ?? null);
}

/** Token → id, without padding. */
function vocabOf({ tokens }: GgmlVocabulary): JsonFields {
  return Object.fromEntries(
    [...tokens.entries()].flatMap(([id, token]) => (token === "" ? [] : [[token, id]])),
  );
}

/** "left right", cut at the first space after the first character. */
function cutMerge(merge: string, rank: number): [string, string] {
  const cut = merge.indexOf(" ", 1);
  if (cut > 0) return [merge.slice(0, cut), merge.slice(cut + 1)];
  const what = `tokenizer.ggml.merges[${rank}], ${JSON.stringify(merge)}, has no space.`;
  throw safetensorsError("file-corrupt", "invalid-value", what);
}

/** Every version reads strings; pairs are needed where tokens have spaces. */
function mergesOf(pairs: readonly [string, string][]): PlainJson {
  const spaced = pairs.some(([left, right]) => left.includes(" ") || right.includes(" "));
  return spaced ? pairs : pairs.map(([left, right]) => `${left} ${right}`);
}

function base64(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}
