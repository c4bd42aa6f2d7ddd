import { LowbitError, type Tokenizer } from "@lowbit/core";
import { chatTemplate } from "./chat-template.ts";
import { endTokensByName, endTokensOf } from "./end-tokens.ts";
import { huggingFaceModel } from "./huggingface-model.ts";
import { JsonFields } from "./json-fields.ts";
import type { LiteralToken } from "./literals.ts";
import { assembleTokenizer } from "./tokenizer.ts";
import { maxTokens, TokenType, Vocabulary, vocabularyError } from "./vocabulary.ts";

/** Builds from parsed tokenizer.json and, if there is one, tokenizer_config.json. */
export function tokenizerFromHuggingFace(
  tokenizer: unknown,
  config: unknown,
  endTokens: readonly number[] = [],
): Tokenizer {
  const root = new JsonFields(tokenizer, "tokenizer.json");
  const settings = new JsonFields(config ?? {}, "tokenizer_config.json");
  const model = root.object("model");
  if (model === undefined) throw vocabularyError("missing-metadata", "tokenizer.json has no model.");
  const added = root.objects("added_tokens").map(addedToken);
  const vocabulary = readVocabulary(model, added);
  for (const id of endTokensByName(vocabulary)) vocabulary.types[id] = TokenType.control;

  const bos = settings.token("bos_token", vocabulary);
  const eos = settings.token("eos_token", vocabulary);
  const frame = readFrame(root.object("post_processor"), vocabulary) ?? {
    prefix: settings.boolean("add_bos_token") && bos !== undefined ? [bos] : [],
    suffix: settings.boolean("add_eos_token") && eos !== undefined ? [eos] : [],
  };
  const template = readTemplate(settings);
  const text = (name: string): string | undefined => {
    const id = settings.token(name, vocabulary);
    return id === undefined ? undefined : vocabulary.tokens[id];
  };
  return assembleTokenizer({
    vocabulary,
    model: huggingFaceModel(root, model, vocabulary),
    literals: added.map((token) => ({ ...token, special: vocabulary.isSpecial(token.id) })),
    bos,
    eos,
    endTokens: endTokensOf(vocabulary, [eos, ...endTokens.filter((id) => id < vocabulary.tokens.length)]),
    ...frame,
    ...(template === undefined
      ? {}
      : {
          chatTemplate: template,
          renderChat: chatTemplate(template, {
            bos: text("bos_token"),
            eos: text("eos_token"),
            unknown: text("unk_token"),
            padding: text("pad_token"),
          }),
        }),
  });
}

function addedToken(token: JsonFields): LiteralToken {
  const id = token.number("id");
  const text = token.string("content");
  if (id === undefined || text === undefined) {
    throw vocabularyError("invalid-value", `${token.at} needs an id and content.`);
  }
  return {
    id,
    text,
    special: token.boolean("special") ?? false,
    stripLeft: token.boolean("lstrip") ?? false,
    stripRight: token.boolean("rstrip") ?? false,
    singleWord: token.boolean("single_word") ?? false,
  };
}

/** `model.vocab` is an object of ids, or for Unigram a list of [token, score]; ids may leave gaps. */
function readVocabulary(model: JsonFields, added: readonly LiteralToken[]): Vocabulary {
  const tokens: string[] = [];
  const place = (text: string, id: unknown): void => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= maxTokens) {
      throw vocabularyError("invalid-value", `The id of token ${JSON.stringify(text)} is ${String(id)}.`);
    }
    if (tokens[id] !== undefined && tokens[id] !== text) {
      throw vocabularyError(
        "duplicate",
        `Tokens ${JSON.stringify(tokens[id])} and ${JSON.stringify(text)} both have the id ${id}.`,
      );
    }
    tokens[id] = text;
  };
  const listed = model.get("vocab");
  if (Array.isArray(listed)) {
    listed.forEach((entry: unknown, id) => {
      if (!Array.isArray(entry) || typeof entry[0] !== "string") {
        throw vocabularyError("invalid-type", `model.vocab[${id}] is not a token with its score.`);
      }
      place(entry[0], id);
    });
  } else {
    for (const [text, id] of model.object("vocab")?.entries() ?? []) place(text, id);
  }
  for (const { text, id } of added) place(text, id);

  const entries = added.length + (Array.isArray(listed) ? listed.length : Object.keys(tokens).length);
  if (tokens.length > entries * 2 + maxHoles) {
    throw vocabularyError("invalid-value", `The ids of ${entries} tokens go up to ${tokens.length - 1}.`);
  }
  // A hole would make the array slow, and its length says how many tokens there are.
  const filled = Array.from(tokens, (text) => text ?? "");
  const types = new Uint8Array(filled.length).fill(TokenType.normal);
  for (const { id, special } of added) types[id] = special ? TokenType.control : TokenType.userDefined;
  const vocabulary = new Vocabulary(filled, types);
  markTypes(model, vocabulary);
  return vocabulary;
}

function markTypes(model: JsonFields, vocabulary: Vocabulary): void {
  const unknown = model.token("unk_token", vocabulary) ?? model.number("unk_id");
  if (unknown !== undefined && vocabulary.type(unknown) === TokenType.normal) {
    vocabulary.types[unknown] = TokenType.unknown;
  }
  if (!model.boolean("byte_fallback")) return;
  vocabulary.tokens.forEach((token, id) => {
    if (vocabulary.type(id) === TokenType.normal && /^<0x[0-9A-F]{2}>$/.test(token)) {
      vocabulary.types[id] = TokenType.byte;
    }
  });
}

/** Ids without a token, beyond one for each with one. */
const maxHoles = 4096;

interface Frame {
  readonly prefix: readonly number[];
  readonly suffix: readonly number[];
}

/** What the post-processor puts around a single text; undefined if it says nothing about it. */
function readFrame(part: JsonFields | undefined, vocabulary: Vocabulary): Frame | undefined {
  switch (part?.string("type")) {
    case "TemplateProcessing":
      return templateFrame(part, vocabulary);
    case "BertProcessing":
    case "RobertaProcessing": {
      const id = (name: string): number =>
        vocabulary.checkId(Number(part.array(name)[1]), `${part.at}.${name}`);
      return { prefix: [id("cls")], suffix: [id("sep")] };
    }
    case "Sequence":
      for (const inner of part.objects("processors")) {
        const frame = inner.string("type") === "Sequence" ? undefined : readFrame(inner, vocabulary);
        if (frame !== undefined) return frame;
      }
  }
  return undefined;
}

function templateFrame(part: JsonFields, vocabulary: Vocabulary): Frame {
  const prefix: number[] = [];
  const suffix: number[] = [];
  const known = part.object("special_tokens");
  let current = prefix;
  for (const item of part.objects("single")) {
    const name = item.object("SpecialToken")?.string("id");
    if (name === undefined) {
      current = suffix;
      continue;
    }
    const ids = known?.object(name)?.array("ids") ?? [vocabulary.id(name)];
    for (const id of ids)
      current.push(vocabulary.checkId(Number(id), `${part.at}: the id of ${JSON.stringify(name)}`));
  }
  return { prefix, suffix };
}

/** A string, or a list of named ones of which "default" counts. */
function readTemplate(settings: JsonFields): string | undefined {
  const value = settings.get("chat_template");
  if (value === undefined || typeof value === "string") return value;
  if (!Array.isArray(value)) {
    throw new LowbitError(
      "file-corrupt",
      "tokenizer_config.json: chat_template is neither a string nor a list.",
      {
        reason: "invalid-type",
        plugin: "tokenizers",
      },
    );
  }
  const named = settings.objects("chat_template");
  return named.find((item) => item.string("name") === "default")?.string("template");
}
