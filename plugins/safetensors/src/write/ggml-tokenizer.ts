import type { PlainJson } from "@lowbit/core";
import { safetensorsError } from "../errors.ts";
import { ggmlModels, type ModelParts } from "./ggml-models.ts";
import { GgmlVocabulary, tokenTypes } from "./ggml-vocabulary.ts";
import type { JsonFields } from "./json-fields.ts";

/** A tokenizer's files as JSON. */
export interface MadeTokenizer {
  /** tokenizer.json */
  readonly tokenizer: JsonFields;
  /** tokenizer_config.json */
  readonly settings: JsonFields;
  /** special_tokens_map.json */
  readonly special: JsonFields;
  /** generation_config.json */
  readonly generation: JsonFields;
  /** For config.json. */
  readonly ids: JsonFields;
}

/** What is around a text, and what ends one. */
interface SpecialIds {
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly unknown: number | undefined;
  readonly padding: number | undefined;
  readonly addBos: boolean;
  readonly addEos: boolean;
  /** All that end a generation. */
  readonly ends: readonly number[];
}

/**
 * Makes a Hugging Face tokenizer of GGUF metadata: one that gives the same ids. Undefined where there is none. Throws
 * `format-unsupported` for kinds that cannot be said in tokenizer.json, `file-corrupt` for damage.
 */
export function ggmlTokenizer(
  metadata: ReadonlyMap<string, unknown>,
  contextLength: number,
): MadeTokenizer | undefined {
  const kind = metadata.get("tokenizer.ggml.model");
  if (kind === undefined || kind === "none" || kind === "no_vocab") return undefined;
  const build = typeof kind === "string" && Object.hasOwn(ggmlModels, kind) ? ggmlModels[kind] : undefined;
  if (build === undefined) {
    const what = `The tokenizer ${JSON.stringify(kind)} (tokenizer.ggml.model) has no form in tokenizer.json here.`;
    throw safetensorsError("format-unsupported", "unknown-tokenizer", what, {
      hint: `Known are ${Object.keys(ggmlModels).join(", ")}.`,
    });
  }
  const vocabulary = new GgmlVocabulary(metadata, String(kind));
  const parts = build(vocabulary);
  const special = specialIds(vocabulary, parts);
  const added = addedTokens(vocabulary, parts, metadata.get("general.name"));
  const text = (id: number | undefined): string | null =>
    id === undefined ? null : spelled(vocabulary, parts, id);
  const isBert = vocabulary.model === "bert";
  // BERT's separator ends a text, but it ends no generation.
  const eos = isBert ? undefined : special.eos;
  const named: JsonFields = {
    bos_token: text(special.bos),
    eos_token: text(eos),
    unk_token: text(special.unknown),
    pad_token: text(special.padding),
    ...(isBert && {
      cls_token: text(special.bos),
      sep_token: text(special.eos),
      mask_token: text(vocabulary.special("mask", 103)),
    }),
  };
  const template = chatTemplate(metadata);
  const ids = {
    bos_token_id: special.bos ?? null,
    eos_token_id: eos ?? null,
    pad_token_id: special.padding ?? null,
  };
  const { ends } = special;
  return {
    tokenizer: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: parts.normalizer,
      pre_tokenizer: parts.preTokenizer,
      post_processor: frame(special, text) ?? parts.postProcessor,
      decoder: parts.decoder,
      model: parts.model,
    },
    settings: {
      tokenizer_class: "PreTrainedTokenizerFast",
      ...named,
      add_bos_token: special.addBos && special.bos !== undefined,
      add_eos_token: special.addEos && special.eos !== undefined,
      added_tokens_decoder: Object.fromEntries(added.map(({ id, ...token }) => [String(id), token])),
      clean_up_tokenization_spaces: false,
      model_max_length: contextLength,
      ...(template !== undefined && { chat_template: template }),
    },
    special: Object.fromEntries(Object.entries(named).filter(([, token]) => token !== null)),
    generation: { ...ids, eos_token_id: ends.length > 1 ? ends : ids.eos_token_id },
    ids,
  };
}

function specialIds(vocabulary: GgmlVocabulary, { defaults }: ModelParts): SpecialIds {
  const isBert = vocabulary.model === "bert";
  const bos = isBert ? vocabulary.special("cls", defaults.bos) : vocabulary.special("bos", defaults.bos);
  const eos = isBert
    ? vocabulary.special("seperator", defaults.eos)
    : vocabulary.special("eos", defaults.eos);
  const addEos = isBert ? vocabulary.flag("add_sep_token") : vocabulary.flag("add_eos_token");
  const ends = isBert ? [] : [eos, vocabulary.special("eot"), vocabulary.special("eom")];
  return {
    bos: vocabulary.model === "t5" ? vocabulary.special("bos") : bos,
    eos,
    unknown: vocabulary.special("unknown", defaults.unknown),
    padding: vocabulary.special("padding"),
    addBos: isBert || (vocabulary.flag("add_bos_token") ?? defaults.addBos),
    addEos: addEos ?? defaults.addEos,
    ends: [...new Set(ends.filter((id) => id !== undefined))],
  };
}

function spelled({ tokens }: GgmlVocabulary, { spell }: ModelParts, id: number): string {
  const token = tokens[id] ?? "";
  return spell ? spell(token, id) : token;
}

/** Tokens that are looked for in the text itself. */
function addedTokens(
  vocabulary: GgmlVocabulary,
  parts: ModelParts,
  modelName: unknown,
): (JsonFields & { readonly id: number })[] {
  // GGUF does not say which tokens swallow white space; Phi 3's do, all but three.
  const phi3 = typeof modelName === "string" && /phi-?3/i.test(modelName);
  const keeping = ["<unk>", "<s>", "<|endoftext|>"];
  return [...vocabulary.tokens.keys()].flatMap((id) => {
    const special = vocabulary.isSpecial(id);
    const content = spelled(vocabulary, parts, id);
    if (content === "" || (!special && vocabulary.type(id) !== tokenTypes.userDefined)) return [];
    const rstrip = phi3 && !keeping.includes(content);
    return [{ id, content, single_word: false, lstrip: false, rstrip, normalized: false, special }];
  });
}

/** Puts bos and eos around a text, where the model wants them. */
function frame(special: SpecialIds, text: (id: number | undefined) => string | null): JsonFields | undefined {
  const before = special.addBos && special.bos !== undefined ? [special.bos] : [];
  const after = special.addEos && special.eos !== undefined ? [special.eos] : [];
  if (before.length + after.length === 0) return undefined;
  const token = (type_id: number) => (id: number) => ({ SpecialToken: { id: text(id), type_id } });
  const sequence = (id: string, type_id: number): JsonFields => ({ Sequence: { id, type_id } });
  const single = [...before.map(token(0)), sequence("A", 0), ...after.map(token(0))];
  return {
    type: "TemplateProcessing",
    single,
    pair: [...single, ...before.map(token(1)), sequence("B", 1), ...after.map(token(1))],
    special_tokens: Object.fromEntries(
      [...before, ...after].map((id) => [text(id), { id: text(id), ids: [id], tokens: [text(id)] }]),
    ),
  };
}

/** One template, or a list of named ones. */
function chatTemplate(metadata: ReadonlyMap<string, unknown>): PlainJson | undefined {
  const main = metadata.get("tokenizer.chat_template");
  const prefix = "tokenizer.chat_template.";
  const named = [...metadata].flatMap(([key, template]) =>
    key.startsWith(prefix) && typeof template === "string"
      ? [{ name: key.slice(prefix.length), template }]
      : [],
  );
  if (typeof main !== "string") return named.length === 0 ? undefined : named;
  return named.length === 0 ? main : [{ name: "default", template: main }, ...named];
}
