import type { WordEncoder } from "./model.ts";
import { PrefixIndex } from "./prefix-index.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** How much worse than the worst token an unknown character is. */
const unknownPenalty = 10;

export interface UnigramOptions {
  /** Log probabilities, one per token. */
  readonly scores: ArrayLike<number>;
  readonly unknown: number;
  /** Tokens that may be chosen. */
  readonly usable: (id: number) => boolean;
  /** Tokens whose scores set the price of an unknown character. */
  readonly priced: (id: number) => boolean;
  /** Spells an unknown character in bytes, where the vocabulary has them. */
  readonly spell?: (text: string) => readonly number[] | undefined;
}

/** The likeliest way to cut a word into tokens (Viterbi). Unknown characters in a row become one token. */
export function unigramEncoder(vocabulary: Vocabulary, options: UnigramOptions): WordEncoder {
  const { scores, unknown } = options;
  const entries: (readonly [string, number])[] = [];
  let worst = Number.POSITIVE_INFINITY;
  for (let id = 0; id < vocabulary.size; id++) {
    if (options.priced(id)) worst = Math.min(worst, scores[id]!);
    if (options.usable(id)) entries.push([vocabulary.tokens[id]!, id]);
  }
  const index = new PrefixIndex(entries);
  const unknownScore = (Number.isFinite(worst) ? worst : 0) - unknownPenalty;

  return (word, ids) => {
    const length = word.length;
    const best = new Float64Array(length + 1).fill(Number.NEGATIVE_INFINITY);
    const from = new Int32Array(length + 1);
    const token = new Int32Array(length + 1);
    best[0] = 0;
    const offer = (start: number, end: number, id: number, score: number): void => {
      const total = best[start]! + score;
      if (total > best[end]!) {
        best[end] = total;
        from[end] = start;
        token[end] = id;
      }
    };
    for (let at = 0; at < length; ) {
      const width = word.codePointAt(at)! > 0xffff ? 2 : 1;
      let single = false;
      index.each(word, at, (id, covered) => {
        single ||= covered === width;
        offer(at, at + covered, id, scores[id]!);
      });
      if (!single) offer(at, at + width, unknown, unknownScore);
      at += width;
    }
    const path: [start: number, end: number][] = [];
    for (let end = length; end > 0; end = from[end]!) path.push([from[end]!, end]);
    let unknownStart = -1;
    for (const [start, end] of path.reverse()) {
      const id = token[end]!;
      if (id === unknown && unknownStart < 0) unknownStart = start;
      if (id !== unknown) {
        if (unknownStart >= 0) pushUnknown(word.slice(unknownStart, start), ids);
        unknownStart = -1;
        ids.push(id);
      }
    }
    if (unknownStart >= 0) pushUnknown(word.slice(unknownStart), ids);
  };

  function pushUnknown(text: string, ids: number[]): void {
    const spelled = options.spell?.(text);
    if (spelled === undefined) ids.push(unknown);
    else for (const id of spelled) ids.push(id);
  }
}
