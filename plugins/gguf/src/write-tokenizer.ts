import { LowbitError, preTokenizers, type TokenizerSource } from "@lowbit/core";
import type { GgufEntry } from "./container.ts";

type HuggingFace = TokenizerSource & { readonly kind: "huggingface" };
type Json = Readonly<Record<string, unknown>>;

/** llama.cpp's numbers for kinds of tokens. */
const tokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;
const spaceMark = "▁";

/**
 * tokenizer.json and tokenizer_config.json as `tokenizer.*` keys. Of BPE there are two kinds: over bytes, whose pre-tokenizer must be one
 * that GGUF has a name for, and SentencePiece's, whose merges become scores. Throws `format-unsupported` for others.
 */
export function writeTokenizer(source: HuggingFace, vocabularySize: number): Map<string, GgufEntry> {
  const root = object(source.tokenizer);
  const settings = object(source.config);
  const model = object(root.model);
  if (model.type !== "BPE" && !(model.type === undefined && model.merges)) {
    throw unsupported(
      "unknown-tokenizer",
      `a tokenizer of type ${JSON.stringify(model.type)} is not converted`,
    );
  }
  const { tokens, types, ids } = vocabularyOf(root, model, vocabularySize);
  const metadata = new Map<string, GgufEntry>();
  const set = (key: string, entry: GgufEntry): void => void metadata.set(`tokenizer.ggml.${key}`, entry);
  const sentencePiece = model.byte_fallback === true;
  set("model", { type: "string", value: sentencePiece ? "llama" : "gpt2" });
  set("pre", { type: "string", value: sentencePiece ? "default" : preOf(root) });
  set("tokens", { type: "string[]", value: tokens });
  const merges = mergesOf(model);
  if (sentencePiece) set("scores", { type: "f32[]", value: scoresOf(tokens, merges, ids) });
  set("token_type", { type: "i32[]", value: types });
  if (!sentencePiece) set("merges", { type: "string[]", value: merges.map(([a, b]) => `${a} ${b}`) });
  const named = (name: string): number | undefined => {
    const text = textOf(settings[name]) ?? (name === "unk_token" ? textOf(model.unk_token) : undefined);
    return text === undefined ? undefined : ids.get(text);
  };
  const bos = named("bos_token");
  const eos = named("eos_token") ?? source.endTokens?.[0];
  const id = (key: string, value: number | undefined): void => {
    if (value !== undefined) set(`${key}_token_id`, { type: "u32", value });
  };
  id("bos", bos);
  id("eos", eos);
  id("unknown", named("unk_token"));
  id("padding", named("pad_token"));
  id(
    "eot",
    source.endTokens?.find((end) => end !== eos && end !== named("pad_token")),
  );
  const frame = frameOf(root, settings, ids);
  set("add_bos_token", { type: "bool", value: bos !== undefined && frame.first === bos });
  set("add_eos_token", { type: "bool", value: eos !== undefined && frame.last === eos });
  if (sentencePiece) set("add_space_prefix", { type: "bool", value: addsSpace(root) });
  const template = templateOf(settings);
  if (template !== undefined) metadata.set("tokenizer.chat_template", { type: "string", value: template });
  return metadata;
}

interface Vocabulary {
  readonly tokens: string[];
  readonly types: Int32Array;
  readonly ids: ReadonlyMap<string, number>;
}

/** Ids without a token, which models pad their tables with, become unused ones. */
function vocabularyOf(root: Json, model: Json, size: number): Vocabulary {
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
  const unknown = textOf(model.unk_token);
  for (const [text, id] of Object.entries(object(model.vocab))) {
    const byte = model.byte_fallback === true && /^<0x[0-9A-F]{2}>$/.test(text);
    place(text, id, byte ? tokenType.byte : text === unknown ? tokenType.unknown : tokenType.normal);
  }
  for (const added of list(root.added_tokens).map(object)) {
    const text = textOf(added.content);
    if (text === undefined) continue;
    const special = added.special === true ? tokenType.control : tokenType.userDefined;
    place(text, added.id, text === unknown ? tokenType.unknown : special);
  }
  return { tokens, types, ids };
}

function mergesOf(model: Json): (readonly [string, string])[] {
  return list(model.merges).map((merge) => {
    const [a, b] = Array.isArray(merge) ? (merge as unknown[]) : String(merge).split(" ");
    return [String(a), String(b)] as const;
  });
}

/** SentencePiece merges what makes the token of the highest score; so tokens rank by the first merge that makes them. */
function scoresOf(
  tokens: readonly string[],
  merges: readonly (readonly [string, string])[],
  ids: ReadonlyMap<string, number>,
): Float32Array {
  const scores = new Float32Array(tokens.length);
  const seen = new Set<number>();
  for (const [rank, [a, b]] of merges.entries()) {
    const id = ids.get(a + b);
    if (id === undefined || seen.has(id)) continue;
    seen.add(id);
    scores[id] = -rank - 1;
  }
  return scores;
}

/** Python writes contractions of either case in two ways. */
const contractions =
  /\(\?i:'s\|'t\|'re\|'ve\|'m\|'ll\|'d\)|\(\?:'\[sS\]\|'\[tT\]\|'\[rR\]\[eE\]\|'\[vV\]\[eE\]\|'\[mM\]\|'\[lL\]\[lL\]\|'\[dD\]\)/g;
const normal = (pattern: string): string => pattern.replace(contractions, "<contractions>");

/** The name under which GGUF knows the pre-tokenizer. */
function preOf(root: Json): string {
  const found = patternsOf(object(root.pre_tokenizer)).map(normal);
  const ignoreMerges = object(root.model).ignore_merges === true;
  const fits = preTokenizers.filter(
    ({ patterns }) =>
      patterns.length === found.length && patterns.every((pattern, i) => normal(pattern) === found[i]),
  );
  const family = fits.find((candidate) => (candidate.ignoreMerges ?? false) === ignoreMerges) ?? fits[0];
  if (family?.names[0] !== undefined) return family.names[0];
  throw unsupported(
    "unknown-pre-tokenizer",
    `its pre-tokenizer splits by ${found.map((pattern) => JSON.stringify(pattern)).join(", ") || "nothing"}, which GGUF has no name for`,
  );
}

const gpt2 = preTokenizers[0]?.patterns[0] ?? "";

function patternsOf(part: Json): string[] {
  switch (part.type) {
    case "Sequence":
      return list(part.pretokenizers).flatMap((inner) => patternsOf(object(inner)));
    case "Split":
      return [textOf(object(part.pattern).Regex) ?? textOf(object(part.pattern).String) ?? ""];
    case "Digits":
      return [part.individual_digits === true ? "\\p{N}" : "\\p{N}+"];
    case "ByteLevel":
      return part.use_regex === false ? [] : [gpt2];
    default:
      throw unsupported(
        "unknown-pre-tokenizer",
        `the pre-tokenizer ${JSON.stringify(part.type)} is not converted`,
      );
  }
}

/** What the post-processor puts around a text. */
function frameOf(
  root: Json,
  settings: Json,
  ids: ReadonlyMap<string, number>,
): { first?: number | undefined; last?: number | undefined } {
  const parts = [object(root.post_processor)].flatMap((part) =>
    part.type === "Sequence" ? list(part.processors).map(object) : [part],
  );
  const template = parts.find(({ type }) => type === "TemplateProcessing");
  const token = (name: string): number | undefined => ids.get(textOf(settings[name]) ?? "");
  if (template === undefined) {
    return {
      first: settings.add_bos_token === true ? token("bos_token") : undefined,
      last: settings.add_eos_token === true ? token("eos_token") : undefined,
    };
  }
  const single = list(template.single).map(object);
  const special = (item: Json | undefined): number | undefined =>
    ids.get(textOf(object(item?.SpecialToken).id) ?? "");
  return { first: special(single[0]), last: special(single.at(-1)) };
}

/** Does a text get a space in front? */
function addsSpace(root: Json): boolean {
  const parts = [object(root.normalizer), object(root.pre_tokenizer)].flatMap((part) => [
    part,
    ...list(part.normalizers).map(object),
    ...list(part.pretokenizers).map(object),
  ]);
  return parts.some(
    (part) =>
      (part.type === "Prepend" && part.prepend === spaceMark) ||
      (part.type === "Metaspace" && part.prepend_scheme !== "never" && part.add_prefix_space !== false),
  );
}

function templateOf(settings: Json): string | undefined {
  const value = settings.chat_template;
  if (typeof value === "string") return value;
  return textOf(
    list(value)
      .map(object)
      .find(({ name }) => name === "default")?.template,
  );
}

/** Parsed JSON may be plain objects or maps. */
function object(value: unknown): Json {
  if (value instanceof Map) return Object.fromEntries(value as ReadonlyMap<string, unknown>);
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : {};
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** A token as text, or as an object with its content. */
function textOf(value: unknown): string | undefined {
  return typeof value === "string"
    ? value
    : typeof object(value).content === "string"
      ? String(object(value).content)
      : undefined;
}

function unsupported(reason: string, what: string): LowbitError {
  return new LowbitError("format-unsupported", `The tokenizer cannot be written as GGUF: ${what}.`, {
    reason,
    plugin: "gguf",
    hint: "Convert to a format of Hugging Face folders, which keep tokenizer.json.",
  });
}
