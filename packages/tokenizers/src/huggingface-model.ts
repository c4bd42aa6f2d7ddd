import { LowbitError } from "@lowbit/core";
import { bpeEncoder, byteTokens } from "./bpe.ts";
import { byteLevelDecoding } from "./byte-level.ts";
import { stagesOf } from "./huggingface-stages.ts";
import type { JsonFields } from "./json-fields.ts";
import { readMerges } from "./merges.ts";
import { type Stage, type TokenModel, utf8, type WordEncoder } from "./model.ts";
import { sentencePieceDecoding, spaceMark, wordStages } from "./sentencepiece.ts";
import { unigramEncoder } from "./unigram.ts";
import { type Vocabulary, vocabularyError } from "./vocabulary.ts";
import { wordPieceEncoder } from "./wordpiece.ts";

/** `root` is tokenizer.json, `model` its model. */
export function huggingFaceModel(root: JsonFields, model: JsonFields, vocabulary: Vocabulary): TokenModel {
  const stages = [...stagesOf(root.object("normalizer")), ...stagesOf(root.object("pre_tokenizer"))];
  const type = model.string("type") ?? guessType(model);
  switch (type) {
    case "BPE":
      return bpeModel(root, model, vocabulary, stages);
    case "Unigram":
      return unigramModel(root, model, vocabulary, stages);
    case "WordPiece":
      return wordPieceModel(root, model, vocabulary, stages);
  }
  throw unsupported(
    `The model of tokenizer.json is a ${JSON.stringify(type)}; known are BPE, Unigram and WordPiece.`,
  );
}

/** Older files don't name the type. */
function guessType(model: JsonFields): string {
  if (Array.isArray(model.get("vocab"))) return "Unigram";
  return model.get("merges") === undefined ? "WordPiece" : "BPE";
}

function bpeModel(
  root: JsonFields,
  model: JsonFields,
  vocabulary: Vocabulary,
  stages: readonly Stage[],
): TokenModel {
  for (const name of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if ((model.string(name) ?? "") !== "")
      throw unsupported(`tokenizer.json: BPE with ${name} is not supported.`);
  }
  const byteLevel = [...partsOf(root, "pre_tokenizer"), ...partsOf(root, "normalizer")].some(isByteLevel);
  const ignoreMerges = model.boolean("ignore_merges") ?? false;
  const fuseUnknown = model.boolean("fuse_unk") ?? false;
  return {
    kind: "bpe",
    stages: byteLevel || ignoreMerges ? stages : [...stages, ...wordStages(vocabulary)],
    encode: bpeEncoder(vocabulary, {
      pairs: readMerges(model.array("merges"), vocabulary),
      ignoreMerges,
      byteFallback: model.boolean("byte_fallback") ?? false,
      unknown: model.token("unk_token", vocabulary),
      fuseUnknown,
    }),
    ...decoderOf(root, vocabulary, byteLevel),
  };
}

function unigramModel(
  root: JsonFields,
  model: JsonFields,
  vocabulary: Vocabulary,
  stages: readonly Stage[],
): TokenModel {
  const scores = new Float64Array(vocabulary.size);
  const listed = model.array("vocab");
  listed.forEach((entry, id) => {
    const score: unknown = Array.isArray(entry) ? entry[1] : undefined;
    if (typeof score !== "number") throw vocabularyError("invalid-type", `model.vocab[${id}] has no score.`);
    scores[id] = score;
  });
  const unknown = model.number("unk_id");
  if (unknown === undefined) throw unsupported("tokenizer.json: Unigram without unk_id is not supported.");
  const inModel = (id: number): boolean => id < listed.length;
  return {
    kind: "unigram",
    stages,
    encode: unigramEncoder(vocabulary, {
      scores,
      unknown: vocabulary.checkId(unknown, "model.unk_id"),
      usable: (id) => inModel(id) && id !== unknown,
      priced: inModel,
      ...(model.boolean("byte_fallback") ? { spell: byteTokens(vocabulary).spell } : {}),
    }),
    ...decoderOf(root, vocabulary, false),
  };
}

function wordPieceModel(
  root: JsonFields,
  model: JsonFields,
  vocabulary: Vocabulary,
  stages: readonly Stage[],
): TokenModel {
  const prefix = model.string("continuing_subword_prefix") ?? "##";
  const unknown = model.token("unk_token", vocabulary);
  if (unknown === undefined)
    throw vocabularyError("missing-token", "tokenizer.json: WordPiece has no unknown token.");
  const continues = (token: string): boolean => prefix !== "" && token.startsWith(prefix);
  const pieces = vocabulary.tokens.map((token, id) => {
    if (token === "") return ["", id] as const;
    return [continues(token) ? token.slice(prefix.length) : spaceMark + token, id] as const;
  });
  const encode: WordEncoder = wordPieceEncoder(
    pieces,
    unknown,
    model.number("max_input_chars_per_word") ?? 100,
  );
  if (root.object("decoder")?.string("type") !== "WordPiece") {
    throw unsupported("tokenizer.json: WordPiece without a WordPiece decoder is not supported.");
  }
  return {
    kind: "wordpiece",
    stages,
    encode,
    bytes: (id) => {
      const token = vocabulary.tokens[id]!;
      return utf8(continues(token) ? token.slice(prefix.length) : ` ${token}`);
    },
    literalBytes: (id) => utf8(` ${vocabulary.tokens[id]}`),
    stripsLeadingSpace: true,
  };
}

/** The parts of a component, whether it is one or a sequence. */
function partsOf(root: JsonFields, name: string): readonly JsonFields[] {
  const part = root.object(name);
  if (part?.string("type") !== "Sequence") return part === undefined ? [] : [part];
  return [...part.objects("normalizers"), ...part.objects("pretokenizers"), ...part.objects("decoders")];
}

function isByteLevel(part: JsonFields): boolean {
  return part.string("type") === "ByteLevel";
}

const decoders: readonly string[] = ["Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "ByteLevel"];

function decoderOf(
  root: JsonFields,
  vocabulary: Vocabulary,
  byteLevel: boolean,
): Pick<TokenModel, "bytes" | "literalBytes" | "stripsLeadingSpace"> {
  const parts = partsOf(root, "decoder");
  const odd = parts.find((part) => !decoders.includes(part.string("type") ?? ""));
  if (odd !== undefined)
    throw unsupported(`${odd.at} is a ${JSON.stringify(odd.string("type"))}, which is not known.`);
  if (byteLevel || parts.some(isByteLevel)) {
    return { ...byteLevelDecoding(vocabulary), stripsLeadingSpace: false };
  }
  const strips = parts.some((part) => {
    if (part.string("type") === "Strip")
      return part.string("content") === " " && (part.number("start") ?? 0) > 0;
    if (part.string("type") !== "Metaspace") return false;
    return (
      (part.string("prepend_scheme") ?? "always") !== "never" && part.boolean("add_prefix_space") !== false
    );
  });
  return { ...sentencePieceDecoding(vocabulary), stripsLeadingSpace: strips };
}

function unsupported(message: string): LowbitError {
  return new LowbitError("format-unsupported", message, {
    reason: "unknown-tokenizer",
    plugin: "tokenizers",
  });
}
