import { gpt2Pattern, LowbitError, preTokenizers } from "@lowbit/core";
import type { GgufEntry } from "./container.ts";
import { type Json, list, object, partsOf, textOf } from "./plain-json.ts";

/** llama.cpp's numbers for kinds of tokens. */
const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;
const spaceMark = "▁";

/** Tokens by id. */
export interface Vocabulary {
  readonly tokens: string[];
  readonly types: Int32Array;
  readonly ids: ReadonlyMap<string, number>;
  readonly unknown: number | undefined;
}

export type VocabularyKind = "gpt2" | "llama" | "t5" | "bert";

/** Keys behind `tokenizer.ggml.`. */
type Keys = readonly (readonly [key: string, entry: GgufEntry])[];

/** The tokens of tokenizer.json; ids without one, which models pad their tables with, become unused ones. */
export function readVocabulary(root: Json, size: number): Vocabulary {
  const model = object(root.model);
  const ids = new Map<string, number>();
  const types = new Int32Array(size).fill(tokenType.unused);
  const tokens = Array.from({ length: size }, (_, id) => `[PAD${id}]`);
  const place = (text: string, id: unknown, type: number): void => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= size) {
      throw unsupported("vocabulary", `token ${JSON.stringify(text)} has the id ${String(id)} of ${size}`);
    }
    ids.set(text, id);
    tokens[id] = text;
    types[id] = type;
  };
  const listed = Array.isArray(model.vocab)
    ? list(model.vocab).map((entry, id) => [textOf(list(entry)[0]) ?? "", id] as const)
    : Object.entries(object(model.vocab));
  const unknown = textOf(model.unk_token) ?? listed[Number(model.unk_id ?? -1)]?.[0];
  for (const [text, id] of listed) {
    const byte = model.byte_fallback === true && /^<0x[0-9A-F]{2}>$/.test(text);
    place(text, id, byte ? tokenType.byte : text === unknown ? tokenType.unknown : tokenType.normal);
  }
  for (const added of list(root.added_tokens).map(object)) {
    const text = textOf(added.content);
    if (text === undefined) continue;
    const special = added.special === true ? tokenType.control : tokenType.userDefined;
    place(text, added.id, text === unknown ? tokenType.unknown : special);
  }
  return { tokens, types, ids, unknown: unknown === undefined ? undefined : ids.get(unknown) };
}

/** The kind of tokenizer, and the keys that only it has. */
export function writeVocabulary(root: Json, vocabulary: Vocabulary): { kind: VocabularyKind; keys: Keys } {
  const model = object(root.model);
  const type = model.type ?? (Array.isArray(model.vocab) ? "Unigram" : model.merges ? "BPE" : "WordPiece");
  const { kind, write } = kindOf(model, type);
  const { keys, tokens = vocabulary.tokens, types = vocabulary.types } = write(root, model, vocabulary);
  return {
    kind,
    keys: [
      ["model", { type: "string", value: kind }],
      ["tokens", { type: "string[]", value: tokens }],
      ["token_type", { type: "i32[]", value: types }],
      ...keys,
    ],
  };
}

/** What one kind writes; tokens and types where they are not the vocabulary's own. */
interface Written {
  readonly keys: Keys;
  readonly tokens?: string[];
  readonly types?: Int32Array;
}
type Write = (root: Json, model: Json, vocabulary: Vocabulary) => Written;

function kindOf(model: Json, type: unknown): { kind: VocabularyKind; write: Write } {
  switch (type) {
    case "BPE":
      return model.byte_fallback === true
        ? { kind: "llama", write: sentencePiece }
        : { kind: "gpt2", write: byteLevel };
    case "Unigram":
      return { kind: "t5", write: unigram };
    case "WordPiece":
      return { kind: "bert", write: wordPiece };
    default:
      throw unsupported("unknown-tokenizer", `a tokenizer of type ${JSON.stringify(type)} is not converted`);
  }
}

function byteLevel(root: Json, model: Json, { types, tokens }: Vocabulary): Written {
  plainMerging(model);
  // GGUF has no word for the composing of characters that Qwen wants; llama.cpp does without.
  only(root.normalizer, "normalizer", (part) => part.type === "NFC");
  const cuts = partsOf(root.pre_tokenizer);
  const bytes = cuts.find(({ type }) => type === "ByteLevel");
  if (!bytes) throw unsupported("unknown-pre-tokenizer", "it merges characters, not bytes");
  const merges = mergesOf(model);
  const made = new Set(merges.map(([left, right]) => left + right));
  const reached = tokens.every(
    (token, id) => types[id] !== tokenType.normal || made.has(token) || !isLong(token),
  );
  return {
    keys: [
      ["pre", { type: "string", value: preOf(cuts, model.ignore_merges === true, reached) }],
      ["merges", { type: "string[]", value: merges.map((pair) => pair.join(" ")) }],
      ...(bytes.add_prefix_space !== false
        ? ([["add_space_prefix", { type: "bool", value: true }]] as const)
        : []),
    ],
  };
}

/**
 * SentencePiece merges what makes the token of the highest score, whichever its parts: so tokens rank by the first merge that makes them,
 * and every pair that makes a token must be a merge.
 */
function sentencePiece(root: Json, model: Json, vocabulary: Vocabulary): Written {
  plainMerging(model);
  const spaces = spacesOf(root);
  if (spaces.merged || spaces.map) {
    throw unsupported(
      "unknown-tokenizer",
      "its normalization of white space or characters has no key beside merges",
    );
  }
  const { tokens, types, ids } = vocabulary;
  const merges = mergesOf(model);
  const scores = new Float32Array(tokens.length);
  const pairs = new Set<string>();
  for (const [rank, pair] of merges.entries()) {
    pairs.add(pair.join("\0"));
    const id = ids.get(pair.join(""));
    if (id !== undefined && scores[id] === 0) scores[id] = -rank - 1;
  }
  const kept = types.slice();
  for (const [id, token] of tokens.entries()) {
    const type = types[id];
    const added = type === tokenType.control || type === tokenType.userDefined;
    // Nothing merges to these in tokenizer.json; at least they should come last.
    if (added && scores[id] === 0) scores[id] = -merges.length - 1;
    // Runs of spaces come from merging, and only in plain tokens a mark means a space.
    else if (type === tokenType.userDefined && token.includes(spaceMark)) kept[id] = tokenType.normal;
    if (type !== tokenType.normal) continue;
    for (let cut = 1; cut < token.length; cut++) {
      const [left, right] = [token.slice(0, cut), token.slice(cut)];
      if (!ids.has(left) || !ids.has(right) || pairs.has(`${left}\0${right}`)) continue;
      const what = `it does not merge ${JSON.stringify(left)} and ${JSON.stringify(right)}, as SentencePiece would`;
      throw unsupported("unknown-tokenizer", what);
    }
  }
  return {
    types: kept,
    keys: [
      ["pre", { type: "string", value: "default" }],
      ["scores", { type: "f32[]", value: scores }],
      ["add_space_prefix", { type: "bool", value: spaces.prefix }],
    ],
  };
}

function unigram(root: Json, model: Json, { tokens }: Vocabulary): Written {
  if (model.byte_fallback === true) {
    throw unsupported("unknown-tokenizer", "Unigram that falls back to bytes is not converted");
  }
  const scores = new Float32Array(tokens.length);
  for (const [id, entry] of list(model.vocab).entries()) scores[id] = Number(list(entry)[1]);
  const spaces = spacesOf(root);
  return {
    keys: [
      ["pre", { type: "string", value: "default" }],
      ["scores", { type: "f32[]", value: scores }],
      ["add_space_prefix", { type: "bool", value: spaces.prefix }],
      ["remove_extra_whitespaces", { type: "bool", value: spaces.merged }],
      ...(spaces.map ? ([["precompiled_charsmap", { type: "u8[]", value: spaces.map }]] as const) : []),
    ],
  };
}

/** GGUF marks the pieces that begin a word, tokenizer.json the others. */
function wordPiece(root: Json, model: Json, vocabulary: Vocabulary): Written {
  const normalizer = object(root.normalizer);
  const cuts = partsOf(root.pre_tokenizer);
  const usual =
    (model.continuing_subword_prefix ?? "##") === "##" &&
    normalizer.type === "BertNormalizer" &&
    normalizer.clean_text !== false &&
    normalizer.handle_chinese_chars !== false &&
    cuts.length === 1 &&
    cuts[0]?.type === "BertPreTokenizer";
  if (!usual) throw unsupported("unknown-tokenizer", "only BERT's own kind of WordPiece is converted");
  const flag = (name: "lowercase" | "strip_accents"): Keys =>
    typeof normalizer[name] === "boolean"
      ? [[`normalizer.${name}`, { type: "bool", value: normalizer[name] as boolean }]]
      : [];
  return {
    tokens: vocabulary.tokens.map((token, id) => {
      if (vocabulary.types[id] !== tokenType.normal) return token;
      return token.startsWith("##") ? token.slice(2) : spaceMark + token;
    }),
    keys: [["pre", { type: "string", value: "default" }], ...flag("lowercase"), ...flag("strip_accents")],
  };
}

/** More than one character? */
function isLong(token: string): boolean {
  return token.length > 1 && [...token].length > 1;
}

function plainMerging(model: Json): void {
  for (const name of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if ((model[name] ?? "") !== "")
      throw unsupported("unknown-tokenizer", `BPE with ${name} is not converted`);
  }
}

function mergesOf(model: Json): [left: string, right: string][] {
  return list(model.merges).map((merge, rank) => {
    const [left, right] = Array.isArray(merge) ? (merge as unknown[]) : String(merge).split(" ");
    if (typeof left === "string" && typeof right === "string") return [left, right];
    throw unsupported("vocabulary", `merge ${rank} is no pair of tokens`);
  });
}

/** Python writes contractions of either case in two ways, line ends as themselves or escaped, and Japanese in two ranges or one. */
const contractions =
  /\(\?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d\)|\(\?:'\[sS\]\|'\[tT\]\|'\[rR\]\[eE\]\|'\[vV\]\[eE\]\|'\[mM\]\|'\[lL\]\[lL\]\|'\[dD\]\)/g;
const normal = (pattern: string): string =>
  pattern
    .replace(contractions, "<contractions>")
    .replaceAll("\r", "\\r")
    .replaceAll("\n", "\\n")
    .replace("\u3040-\u309F\u30A0-\u30FF", "\u3040-\u30FF");

/**
 * The name under which GGUF knows the pre-tokenizer. Whether words that are tokens are taken whole makes no difference where merges
 * reach every token.
 */
function preOf(cuts: readonly Json[], ignoreMerges: boolean, reached: boolean): string {
  const found = cuts.flatMap(patternOf).map(normal);
  const fits = preTokenizers.filter(
    ({ patterns }) =>
      patterns.length === found.length && patterns.every((pattern, i) => normal(pattern) === found[i]),
  );
  const family =
    fits.find((candidate) => (candidate.ignoreMerges ?? false) === ignoreMerges) ??
    (reached ? fits[0] : undefined);
  if (family?.names[0] !== undefined) return family.names[0];
  const list = found.map((pattern) => JSON.stringify(pattern)).join(", ") || "nothing";
  throw unsupported(
    "unknown-pre-tokenizer",
    `its pre-tokenizer splits by ${list}, which GGUF has no name for`,
  );
}

function patternOf(part: Json): string[] {
  switch (part.type) {
    case "Split": {
      const { Regex, String: literal } = object(part.pattern);
      // Patterns that match everything may as well be said to leave nothing else.
      const isolated = part.invert === true ? part.behavior === "Removed" : part.behavior === "Isolated";
      if (typeof Regex === "string" && isolated) return [Regex];
      throw unsupported(
        "unknown-pre-tokenizer",
        `it splits at ${JSON.stringify(Regex ?? literal)} with ${JSON.stringify(part.behavior)}`,
      );
    }
    case "Digits":
      return [part.individual_digits === true ? "\\p{N}" : "\\p{N}+"];
    case "ByteLevel":
      return part.use_regex === false ? [] : [gpt2Pattern];
    default:
      throw unsupported(
        "unknown-pre-tokenizer",
        `the pre-tokenizer ${JSON.stringify(part.type)} is not converted`,
      );
  }
}

interface Spaces {
  /** Before each text. */
  readonly prefix: boolean;
  /** None around a text, one between words. */
  readonly merged: boolean;
  /** SentencePiece's own normalization. */
  readonly map?: Uint8Array;
}

/** How SentencePiece's spaces are said: by normalizers, by Metaspace, or both. */
function spacesOf(root: Json): Spaces {
  let prefix = false;
  let merged = false;
  let marked = false;
  let map: Uint8Array | undefined;
  for (const part of [...partsOf(root.normalizer), ...partsOf(root.pre_tokenizer)]) {
    const { Regex, String: literal } = object(part.pattern);
    switch (part.type) {
      case "Prepend":
        if (part.prepend !== spaceMark) throw oddSpaces(part);
        prefix = true;
        break;
      case "Replace":
        if (literal === " " && part.content === spaceMark) marked = true;
        else if (typeof Regex === "string" && / [{+]/.test(Regex)) {
          merged = true;
          marked ||= part.content === spaceMark;
        } else throw oddSpaces(part);
        break;
      case "Metaspace":
        prefix = part.prepend_scheme !== "never" && part.add_prefix_space !== false;
        marked = true;
        break;
      case "WhitespaceSplit":
        merged = true;
        break;
      case "Precompiled":
        map = base64(textOf(part.precompiled_charsmap) ?? "");
        break;
      case "Strip":
      case "Split":
        // Of spaces, which have their marks by then (Gemma), or beside merging.
        if (part.type === "Split" && literal !== " ") throw oddSpaces(part);
        break;
      default:
        throw oddSpaces(part);
    }
  }
  if (!marked) throw unsupported("unknown-tokenizer", "its spaces get no marks, as SentencePiece's do");
  return { prefix, merged, ...(map && { map }) };
}

function oddSpaces(part: Json): LowbitError {
  return unsupported(
    "unknown-tokenizer",
    `its ${JSON.stringify(part.type)} is nothing that SentencePiece does`,
  );
}

function only(value: unknown, what: string, known: (part: Json) => boolean): void {
  const odd = partsOf(value).find((part) => !known(part));
  if (odd) throw unsupported("unknown-tokenizer", `the ${what} ${JSON.stringify(odd.type)} is not converted`);
}

function base64(text: string): Uint8Array {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    throw unsupported("vocabulary", "its character map is not base64");
  }
}

export function unsupported(reason: string, what: string): LowbitError {
  return new LowbitError("format-unsupported", `The tokenizer cannot be written as GGUF: ${what}.`, {
    reason,
    plugin: "gguf",
    hint: "Convert to a format of Hugging Face folders, which keep tokenizer.json.",
  });
}
