import { mergePairs, type PairRanks, PairTable } from "./merge.ts";
import { utf8, type WordEncoder } from "./model.ts";
import { maxTokens, TokenType, type Vocabulary, vocabularyError } from "./vocabulary.ts";

/** Words kept with their ids; the cache is emptied when it is full. */
const cacheSize = 16_384;
const cachedLength = 32;

export interface BpeOptions {
  readonly pairs: PairRanks;
  /** A word that is a token is taken whole, without merging. */
  readonly ignoreMerges: boolean;
  /** A character without a token becomes the tokens `<0xHH>` of its bytes. */
  readonly byteFallback: boolean;
  /** Stands for characters without a token or bytes; without it they raise an error. */
  readonly unknown: number | undefined;
  /** Unknown characters in a row become one token. */
  readonly fuseUnknown: boolean;
}

/**
 * Byte pair encoding of a word: it starts as characters, and neighbours merge, best rank first.
 * Characters are symbols by token id, or above all ids where they are no tokens.
 */
export function bpeEncoder(vocabulary: Vocabulary, options: BpeOptions): WordEncoder {
  const { pairs, unknown } = options;
  const bytes = byteTokens(vocabulary);
  const cache = new Map<string, Int32Array>();
  let symbols = new Int32Array(256);

  const pushUnknown = (character: string, ids: number[], at: number): void => {
    const spelled = options.byteFallback ? bytes.spell(character) : undefined;
    if (spelled !== undefined) for (const id of spelled) ids.push(id);
    else if (unknown === undefined) throw noToken(character);
    else if (!options.fuseUnknown || ids.length === at || ids.at(-1) !== unknown) ids.push(unknown);
  };

  return (word, ids) => {
    const known = cache.get(word);
    if (known !== undefined) {
      for (const id of known) ids.push(id);
      return;
    }
    const at = ids.length;
    const whole = options.ignoreMerges ? vocabulary.id(word) : undefined;
    if (whole !== undefined) {
      ids.push(whole);
    } else {
      if (symbols.length < word.length) symbols = new Int32Array(word.length * 2);
      let count = 0;
      for (const character of word) symbols[count++] = symbolOf(vocabulary, character);
      count = mergePairs(symbols, count, pairs);
      for (let i = 0; i < count; i++) {
        const symbol = symbols[i]!;
        if (symbol < maxTokens) ids.push(symbol);
        else pushUnknown(String.fromCodePoint(symbol - maxTokens), ids, at);
      }
    }
    if (word.length > cachedLength) return;
    if (cache.size >= cacheSize) cache.clear();
    cache.set(word, Int32Array.from(ids.slice(at)));
  };
}

function symbolOf(vocabulary: Vocabulary, character: string): number {
  return vocabulary.id(character) ?? maxTokens + character.codePointAt(0)!;
}

/** Pairs whose merge has been looked up; forgotten all at once when there are too many. */
const learnedPairs = 1 << 16;

/** Merges by score, as SentencePiece does: any two symbols whose texts together are a token, highest score first. */
export class ScoredPairs implements PairRanks {
  readonly #vocabulary: Vocabulary;
  readonly #ranks: Int32Array;
  #learned = new PairTable(learnedPairs);

  constructor(vocabulary: Vocabulary, scores: ArrayLike<number>) {
    this.#vocabulary = vocabulary;
    const order = Array.from({ length: vocabulary.size }, (_, id) => id);
    order.sort((a, b) => scores[b]! - scores[a]!);
    this.#ranks = new Int32Array(vocabulary.size);
    let rank = 0;
    order.forEach((id, i) => {
      if (i > 0 && scores[id] !== scores[order[i - 1]!]) rank = i;
      this.#ranks[id] = rank;
    });
  }

  find(left: number, right: number): number {
    let at = this.#learned.find(left, right);
    if (at < 0) {
      if (this.#learned.full) this.#learned = new PairTable(learnedPairs);
      const id = this.#vocabulary.id(this.#text(left) + this.#text(right));
      at = this.#learned.add(left, right, id === undefined ? -1 : this.#ranks[id]!, id ?? -1);
    }
    return this.#learned.rankAt(at) < 0 ? -1 : at;
  }

  rankAt(index: number): number {
    return this.#learned.rankAt(index);
  }

  mergedAt(index: number): number {
    return this.#learned.mergedAt(index);
  }

  #text(symbol: number): string {
    return symbol < maxTokens ? this.#vocabulary.tokens[symbol]! : String.fromCodePoint(symbol - maxTokens);
  }
}

export interface ByteTokens {
  /** Ids of the bytes of a text; undefined if one of them has no token. */
  spell(text: string): readonly number[] | undefined;
  /** The byte of a byte token. */
  byte(id: number): Uint8Array | undefined;
}

/** Tokens named `<0x00>` to `<0xFF>`. */
export function byteTokens(vocabulary: Vocabulary): ByteTokens {
  const ids: (number | undefined)[] = [];
  const bytes = new Map<number, Uint8Array>();
  for (let byte = 0; byte < 256; byte++) {
    const id = vocabulary.id(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
    ids.push(id);
    if (id !== undefined && vocabulary.type(id) === TokenType.byte) bytes.set(id, Uint8Array.of(byte));
  }
  return {
    spell(text) {
      const spelled = Array.from(utf8(text), (byte) => ids[byte]);
      return spelled.includes(undefined) ? undefined : (spelled as number[]);
    },
    byte: (id) => bytes.get(id),
  };
}

function noToken(character: string): Error {
  return vocabularyError(
    "missing-token",
    `The vocabulary has no token for ${JSON.stringify(character)}, no bytes to spell it, and no unknown token.`,
    "This model can't take text with that character.",
  );
}
