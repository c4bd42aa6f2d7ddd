import type { Stage, WordEncoder } from "./model.ts";
import { PrefixIndex } from "./prefix-index.ts";
import { spaceMark } from "./sentencepiece.ts";
import { mapStage, splitStage } from "./stages.ts";

/**
 * Greedy longest match. `pieces` are in phantom-space form: those that start a word begin with U+2581,
 * those that continue one are bare. A word that can't be covered becomes `unknown`.
 */
export function wordPieceEncoder(
  pieces: Iterable<readonly [piece: string, id: number]>,
  unknown: number,
  maxWordLength: number = Number.POSITIVE_INFINITY,
): WordEncoder {
  const lengths = new Map<number, number>();
  const index = new PrefixIndex(
    (function* () {
      for (const [piece, id] of pieces) {
        lengths.set(id, piece.length);
        yield [piece, id] as const;
      }
    })(),
  );
  return (word, ids) => {
    const marked = spaceMark + word;
    const start = ids.length;
    const tooLong = word.length > maxWordLength && [...word].length > maxWordLength;
    for (let at = 0; at < marked.length; ) {
      const id = tooLong ? -1 : index.longest(marked, at);
      if (id < 0) {
        ids.length = start;
        ids.push(unknown);
        return;
      }
      ids.push(id);
      at += lengths.get(id)!;
    }
  };
}

/** Decoded pieces: a space where a word starts. Strip the one at the start of the text. */
export function wordPieceText(piece: string): string {
  return piece.startsWith(spaceMark) ? ` ${piece.slice(1)}` : piece;
}

export interface BertNormalizer {
  readonly cleanText: boolean;
  readonly splitChinese: boolean;
  readonly stripAccents: boolean;
  readonly lowercase: boolean;
}

/** The blocks that BERT takes for Chinese; the fifth starts where the Rust tokenizer has it. */
const chinese =
  /[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]/gu;

/** BERT's clean-up of a text. */
export function bertNormalizerStage(options: BertNormalizer): Stage {
  return mapStage((text) => {
    let clean = text;
    if (options.cleanText) {
      clean = clean.replace(/[\t\n\r\p{White_Space}]/gu, " ").replace(/[\uFFFD\p{C}]/gu, "");
    }
    if (options.splitChinese) clean = clean.replace(chinese, " $& ");
    if (options.stripAccents) clean = clean.normalize("NFD").replace(/\p{Mn}/gu, "");
    if (options.lowercase) clean = lowercase(clean);
    return clean;
  });
}

/** Letter by letter: a whole text would get final sigmas. */
export function lowercase(text: string): string {
  return text.replace(/[\p{Uppercase}\p{Lt}]/gu, (letter) => letter.toLowerCase());
}

/** Cuts at white space and around punctuation; ASCII's symbols count as such. */
export function bertSplitStages(): readonly Stage[] {
  return [splitStage(/\p{White_Space}+/gu, "Removed"), splitStage(/[\p{P}!-/:-@[-`{-~]/gu)];
}
