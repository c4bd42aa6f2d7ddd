import { LowbitError, type Tokenizer } from "@lowbit/core";
import { bpeEncoder, ScoredPairs } from "./bpe.ts";
import { byteLevelDecoding, byteLevelStage } from "./byte-level.ts";
import { precompiledNormalizer } from "./charsmap.ts";
import { chatTemplate } from "./chat-template.ts";
import { endTokensByName, endTokensOf } from "./end-tokens.ts";
import { GgmlKeys } from "./ggml-keys.ts";
import type { LiteralToken } from "./literals.ts";
import { readMerges } from "./merges.ts";
import { type Stage, type TokenModel, utf8 } from "./model.ts";
import { namedPreTokenizer } from "./pre-tokenizers.ts";
import { sentencePieceDecoding, spaceMark, wordStages } from "./sentencepiece.ts";
import { mapStage } from "./stages.ts";
import { assembleTokenizer } from "./tokenizer.ts";
import { unigramEncoder } from "./unigram.ts";
import { TokenType, Vocabulary, vocabularyError } from "./vocabulary.ts";
import { bertNormalizerStage, bertSplitStages, wordPieceEncoder, wordPieceText } from "./wordpiece.ts";

/** A model, and what its kind says where the file doesn't. */
interface Built {
  readonly model: TokenModel;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly prefix: boolean;
  readonly suffix: boolean;
}

/** Builds from the `tokenizer.*` keys of GGUF metadata, with llama.cpp's defaults. */
export function tokenizerFromGgml(metadata: ReadonlyMap<string, unknown>): Tokenizer {
  const keys = new GgmlKeys(metadata);
  const kind = keys.string("model");
  const build = kind === undefined ? undefined : builders[kind];
  if (build === undefined) {
    throw new LowbitError(
      "format-unsupported",
      kind === undefined
        ? "The file has no tokenizer (tokenizer.ggml.model)."
        : `The tokenizer ${JSON.stringify(kind)} (tokenizer.ggml.model) is not known; known are ${Object.keys(builders).join(", ")}.`,
      { reason: kind === undefined ? "missing-metadata" : "unknown-tokenizer", plugin: "tokenizers" },
    );
  }
  const vocabulary = readVocabulary(keys);
  const built = build(keys, vocabulary);
  const bos = keys.id("bos_token_id", vocabulary) ?? built.bos;
  const eos = keys.id("eos_token_id", vocabulary) ?? built.eos;
  // BERT's separator ends a text where others have eos.
  const last = kind === "bert" ? (keys.id("seperator_token_id", vocabulary) ?? within(102, vocabulary)) : eos;
  const addLast = kind === "bert" ? built.suffix : (keys.boolean("add_eos_token") ?? built.suffix);
  const addFirst = kind === "bert" || (keys.boolean("add_bos_token") ?? built.prefix);
  const template = metadata.get("tokenizer.chat_template");
  if (template !== undefined && typeof template !== "string") {
    throw vocabularyError("invalid-type", "tokenizer.chat_template is not a string.");
  }
  const text = (id: number | undefined): string | undefined =>
    id === undefined ? undefined : vocabulary.tokens[id];
  return assembleTokenizer({
    vocabulary,
    model: built.model,
    literals: literalTokens(vocabulary, metadata.get("general.name")),
    bos,
    eos,
    endTokens: endTokensOf(
      vocabulary,
      ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"]
        .map((name) => keys.id(`${name}_token_id`, vocabulary))
        .concat(eos),
    ),
    prefix: addFirst && bos !== undefined ? [bos] : [],
    suffix: addLast && last !== undefined ? [last] : [],
    ...(template === undefined
      ? {}
      : {
          chatTemplate: template,
          renderChat: chatTemplate(template, {
            bos: text(bos),
            eos: text(eos),
            unknown: text(keys.id("unknown_token_id", vocabulary)),
            padding: text(keys.id("padding_token_id", vocabulary)),
          }),
        }),
  });
}

/** By `tokenizer.ggml.model`. */
const builders: Readonly<Record<string, (keys: GgmlKeys, vocabulary: Vocabulary) => Built>> = Object.assign(
  Object.create(null) as object,
  { gpt2: byteLevel, llama: sentencePiece, t5: unigram, bert: wordPiece },
);

function byteLevel(keys: GgmlKeys, vocabulary: Vocabulary): Built {
  const named = namedPreTokenizer(keys.string("pre"));
  const prepend: Stage[] = keys.boolean("add_space_prefix")
    ? [mapStage((text) => (text.startsWith(" ") ? text : ` ${text}`))]
    : [];
  const model: TokenModel = {
    kind: "bpe",
    stages: [...prepend, ...named.stages, byteLevelStage()],
    encode: bpeEncoder(vocabulary, {
      pairs: readMerges(keys.requiredArray("merges"), vocabulary),
      ignoreMerges: named.ignoreMerges,
      byteFallback: false,
      unknown: keys.id("unknown_token_id", vocabulary),
      fuseUnknown: false,
    }),
    ...byteLevelDecoding(vocabulary),
    stripsLeadingSpace: false,
  };
  const end = within(11, vocabulary);
  return { model, bos: end, eos: end, prefix: named.addBos, suffix: false };
}

function sentencePiece(keys: GgmlKeys, vocabulary: Vocabulary): Built {
  const addSpace = keys.boolean("add_space_prefix") ?? true;
  const model: TokenModel = {
    kind: "spm",
    stages: [
      mapStage((text) => (addSpace ? ` ${text}` : text).replaceAll(" ", spaceMark)),
      ...wordStages(vocabulary),
    ],
    encode: bpeEncoder(vocabulary, {
      pairs: new ScoredPairs(vocabulary, keys.requiredNumbers("scores", vocabulary.size)),
      ignoreMerges: false,
      byteFallback: true,
      unknown: keys.id("unknown_token_id", vocabulary) ?? 0,
      fuseUnknown: false,
    }),
    ...sentencePieceDecoding(vocabulary),
    stripsLeadingSpace: addSpace,
  };
  return { model, bos: within(1, vocabulary), eos: within(2, vocabulary), prefix: true, suffix: false };
}

function unigram(keys: GgmlKeys, vocabulary: Vocabulary): Built {
  const addSpace = keys.boolean("add_space_prefix") ?? false;
  const mergeSpaces = keys.boolean("remove_extra_whitespaces") ?? false;
  const map = keys.bytes("precompiled_charsmap");
  const model: TokenModel = {
    kind: "unigram",
    stages: [
      ...(map === undefined ? [] : [mapStage(precompiledNormalizer(map))]),
      mapStage((text) => markSpaces(text, addSpace, mergeSpaces)),
    ],
    encode: unigramEncoder(vocabulary, {
      scores: keys.requiredNumbers("scores", vocabulary.size),
      unknown: keys.id("unknown_token_id", vocabulary) ?? within(2, vocabulary) ?? 0,
      usable: (id) => vocabulary.type(id) === TokenType.normal || vocabulary.type(id) === TokenType.unused,
      priced: (id) => vocabulary.type(id) === TokenType.normal,
    }),
    ...sentencePieceDecoding(vocabulary),
    stripsLeadingSpace: addSpace,
  };
  return { model, bos: undefined, eos: within(1, vocabulary), prefix: false, suffix: true };
}

/** Merged spaces leave one between words and none around them. */
function markSpaces(text: string, addSpace: boolean, mergeSpaces: boolean): string {
  const kept = mergeSpaces ? text.replace(/^ +| +$/g, "").replace(/ +/g, " ") : text;
  return (addSpace && kept !== "" ? ` ${kept}` : kept).replaceAll(" ", spaceMark);
}

function wordPiece(keys: GgmlKeys, vocabulary: Vocabulary): Built {
  const lowercase = keys.boolean("normalizer.lowercase") ?? true;
  const model: TokenModel = {
    kind: "wordpiece",
    stages: [
      bertNormalizerStage({
        cleanText: true,
        splitChinese: true,
        stripAccents: keys.boolean("normalizer.strip_accents") ?? lowercase,
        lowercase,
      }),
      ...bertSplitStages(),
    ],
    encode: wordPieceEncoder(
      vocabulary.tokens.map((token, id) => [token, id] as const),
      keys.id("unknown_token_id", vocabulary) ?? within(100, vocabulary) ?? 0,
    ),
    bytes: (id) => utf8(wordPieceText(vocabulary.tokens[id]!)),
    literalBytes: (id) => utf8(` ${vocabulary.tokens[id]}`),
    stripsLeadingSpace: true,
  };
  const first = keys.id("cls_token_id", vocabulary) ?? within(101, vocabulary);
  return { model, bos: first, eos: undefined, prefix: true, suffix: keys.boolean("add_sep_token") ?? true };
}

function within(id: number, vocabulary: Vocabulary): number | undefined {
  return id < vocabulary.size ? id : undefined;
}

function readVocabulary(keys: GgmlKeys): Vocabulary {
  const tokens = keys.requiredArray("tokens");
  const types = new Uint8Array(tokens.length).fill(TokenType.normal);
  const given = keys.numbers("token_type", tokens.length);
  for (let id = 0; given !== undefined && id < types.length; id++) {
    const type = given[id]!;
    if (!Number.isInteger(type) || type < 0 || type > TokenType.byte) {
      throw vocabularyError("invalid-value", `tokenizer.ggml.token_type[${id}] is ${type}; expected 0 to 6.`);
    }
    types[id] = type;
  }
  const vocabulary = new Vocabulary(tokens, types);
  // Converters have left these as plain tokens, which would let any text end a turn.
  for (const id of endTokensByName(vocabulary)) types[id] = TokenType.control;
  return vocabulary;
}

/** Control, unknown and user-defined tokens are looked for in the text itself. */
function* literalTokens(vocabulary: Vocabulary, modelName: unknown): Generator<LiteralToken> {
  // GGUF doesn't say which tokens swallow white space; Phi-3's do, all but three.
  const phi3 = typeof modelName === "string" && /phi-?3/i.test(modelName);
  const keeping = ["<unk>", "<s>", "<|endoftext|>"];
  for (let id = 0; id < vocabulary.size; id++) {
    const special = vocabulary.isSpecial(id);
    if (!special && vocabulary.type(id) !== TokenType.userDefined) continue;
    const text = vocabulary.tokens[id]!;
    yield { id, text, special, stripRight: phi3 && !keeping.includes(text) };
  }
}
