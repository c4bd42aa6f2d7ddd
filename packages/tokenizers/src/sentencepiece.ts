import { byteTokens } from "./bpe.ts";
import { type Stage, type TokenModel, utf8 } from "./model.ts";
import { splitStage } from "./stages.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** SentencePiece writes a space as U+2581. */
export const spaceMark: string = "\u2581";

/** Decoding of tokens with space marks and byte tokens. Literal tokens may be runs of space marks. */
export function sentencePieceDecoding(vocabulary: Vocabulary): Pick<TokenModel, "bytes" | "literalBytes"> {
  const bytes = byteTokens(vocabulary);
  const literalBytes = (id: number): Uint8Array => utf8(vocabulary.tokens[id]!.replaceAll(spaceMark, " "));
  return { bytes: (id) => bytes.byte(id) ?? literalBytes(id), literalBytes };
}

/**
 * SentencePiece merges over whole texts. Where no token has a space after something else, no merge
 * crosses the start of a word, and words can be encoded, and remembered, one by one.
 */
export function wordStages(vocabulary: Vocabulary): readonly Stage[] {
  const crossing = /[^\u2581]\u2581/;
  if (vocabulary.id(spaceMark) === undefined || vocabulary.tokens.some((token) => crossing.test(token)))
    return [];
  return [splitStage(/\u2581*[^\u2581]+|\u2581+/gu)];
}
