import type { ModelConfig, TokenizerSource } from "@lowbit/core";
import type { GgufEntry } from "./container.ts";
import { type Json, list, object, partsOf, textOf } from "./plain-json.ts";
import { readVocabulary, unsupported, type Vocabulary, writeVocabulary } from "./write-vocabulary.ts";

type HuggingFace = TokenizerSource & { readonly kind: "huggingface" };

/**
 * tokenizer.json and tokenizer_config.json as `tokenizer.*` keys, and for Phi 3 a name by which its tokens are known to swallow white
 * space. Throws `format-unsupported` for what GGUF has no keys for.
 */
export function writeTokenizer(source: HuggingFace, config: ModelConfig): Map<string, GgufEntry> {
  const root = object(source.tokenizer);
  const settings = object(source.config);
  const vocabulary = readVocabulary(root, config.vocabularySize);
  const metadata = new Map<string, GgufEntry>();
  const set = (key: string, entry: GgufEntry): void => void metadata.set(`tokenizer.ggml.${key}`, entry);
  const { kind, keys } = writeVocabulary(root, vocabulary);
  for (const [key, entry] of keys) set(key, entry);
  const named = (name: string): number | undefined => vocabulary.ids.get(textOf(settings[name]) ?? "");
  const id = (key: string, value: number | undefined): void => {
    if (value !== undefined) set(`${key}_token_id`, { type: "u32", value });
  };
  const flag = (key: string, value: boolean): void => set(key, { type: "bool", value });
  const frame = frameOf(root, settings, vocabulary);
  const padding = named("pad_token");
  if (kind === "bert") {
    const separator = frame.last ?? named("sep_token");
    id("cls", frame.first ?? named("cls_token"));
    id("seperator", separator);
    id("mask", named("mask_token"));
    flag("add_sep_token", frame.last !== undefined);
    if (frame.first === undefined)
      throw unsupported("frame", "its texts begin with no token, as BERT's must");
  } else {
    const ends = source.endTokens ?? [];
    const eos = same("eos", named("eos_token"), frame.last) ?? ends[0];
    const bos = same("bos", named("bos_token"), frame.first);
    // Where a file names none readers take tokens by number, 11 or 1; any that ends a text is better.
    id("bos", bos ?? (kind === "t5" ? undefined : (eos ?? padding)));
    id("eos", eos ?? padding ?? bos);
    id(
      "eot",
      ends.find((end) => end !== eos && end !== padding),
    );
    flag("add_bos_token", frame.first !== undefined);
    flag("add_eos_token", frame.last !== undefined);
  }
  id("unknown", named("unk_token") ?? vocabulary.unknown);
  id("padding", padding);
  for (const [key, template] of templatesOf(settings)) metadata.set(key, { type: "string", value: template });
  const name = phi3Name(root, vocabulary, config);
  if (name !== undefined) metadata.set("general.name", { type: "string", value: name });
  return metadata;
}

/** The token around a text must be the one that the settings name, if they name one. */
function same(what: string, named: number | undefined, framing: number | undefined): number | undefined {
  if (named === undefined || framing === undefined || named === framing) return named ?? framing;
  throw unsupported("frame", `${what} is token ${named}, but texts get token ${framing} in its place`);
}

interface Frame {
  readonly first: number | undefined;
  readonly last: number | undefined;
}

/** What is put around a text: at most one token on each side, as GGUF has it. */
function frameOf(root: Json, settings: Json, { ids }: Vocabulary): Frame {
  for (const part of partsOf(root.post_processor)) {
    if (part.type === "TemplateProcessing") return templateFrame(part, ids);
    if (part.type !== "BertProcessing" && part.type !== "RobertaProcessing") continue;
    const token = (name: string): number | undefined => ids.get(textOf(list(part[name])[0]) ?? "");
    return { first: token("cls"), last: token("sep") };
  }
  const wanted = (flag: string, name: string): number | undefined =>
    settings[flag] === true ? ids.get(textOf(settings[name]) ?? "") : undefined;
  return { first: wanted("add_bos_token", "bos_token"), last: wanted("add_eos_token", "eos_token") };
}

function templateFrame(part: Json, ids: ReadonlyMap<string, number>): Frame {
  const known = object(part.special_tokens);
  const sides: [before: number[], after: number[]] = [[], []];
  let side = sides[0];
  for (const item of list(part.single).map(object)) {
    const name = textOf(object(item.SpecialToken).id);
    if (name === undefined) {
      side = sides[1];
      continue;
    }
    const tokens = object(known[name]).ids;
    for (const token of Array.isArray(tokens) ? (tokens as unknown[]) : [ids.get(name)])
      side.push(Number(token));
  }
  const [before, after] = sides;
  if (
    before.length > 1 ||
    after.length > 1 ||
    [...before, ...after].some((token) => !Number.isInteger(token))
  ) {
    throw unsupported(
      "frame",
      `it puts tokens ${before.join(", ")} before and ${after.join(", ")} behind a text`,
    );
  }
  return { first: before[0], last: after[0] };
}

/** The template, and others that have names. */
function* templatesOf(settings: Json): Generator<[key: string, template: string]> {
  const value = settings.chat_template;
  if (typeof value === "string") yield ["tokenizer.chat_template", value];
  for (const item of list(value).map(object)) {
    const { name, template } = item;
    if (typeof name !== "string" || typeof template !== "string") continue;
    yield [`tokenizer.chat_template${name === "default" ? "" : `.${name}`}`, template];
  }
}

/** Readers of GGUF know by the model's name alone that special tokens swallow white space, and then expect Phi 3's. */
function phi3Name(root: Json, { ids }: Vocabulary, { name }: ModelConfig): string | undefined {
  const swallows = list(root.added_tokens).some((token) => object(token).rstrip === true);
  const has = ["<s>", "</s>", "<unk>", "<|endoftext|>"].every((token) => ids.has(token));
  if (!swallows || !has || /phi-?3/i.test(name ?? "")) return undefined;
  return name === undefined ? "Phi-3" : `${name} (Phi-3)`;
}
