import { PrefixIndex } from "./prefix-index.ts";

/** A token that is looked for in text as it stands, before anything else happens to the text. */
export interface LiteralToken {
  readonly id: number;
  readonly text: string;
  /** Matched only where the caller trusts the text. */
  readonly special: boolean;
  /** White space before or after the match is swallowed. */
  readonly stripLeft?: boolean;
  readonly stripRight?: boolean;
  /** Matched only where no letter, digit or underscore touches it. */
  readonly singleWord?: boolean;
}

const wordCharacter = /[\p{L}\p{M}\p{Nd}\p{Pc}]/u;

/** Finds literal tokens: leftmost first, longest among those that start at the same place. */
export class LiteralMatcher {
  readonly #tokens: readonly LiteralToken[];
  readonly #all: PrefixIndex;
  readonly #plain: PrefixIndex;

  constructor(tokens: Iterable<LiteralToken>) {
    this.#tokens = [...tokens];
    const entries = this.#tokens.map((token, index) => [token.text, index] as const);
    this.#all = new PrefixIndex(entries);
    this.#plain = new PrefixIndex(entries.filter(([, index]) => !this.#tokens[index]!.special));
  }

  /** Calls back with texts and tokens in order. `onText` learns whether its text starts the input. */
  split(
    text: string,
    parseSpecial: boolean,
    onText: (text: string, beginning: boolean) => void,
    onToken: (id: number) => void,
  ): void {
    const index = parseSpecial ? this.#all : this.#plain;
    let end = 0;
    for (let at = 0; index.size > 0 && at < text.length; ) {
      const found = index.longest(text, at);
      const token = this.#tokens[found];
      if (token === undefined || (token.singleWord && touchesWord(text, at, token.text.length))) {
        at++;
        continue;
      }
      const before = text.slice(end, at);
      const kept = token.stripLeft ? before.trimEnd() : before;
      if (kept !== "") onText(kept, end === 0);
      onToken(token.id);
      at += token.text.length;
      if (token.stripRight) while (at < text.length && text[at]!.trim() === "") at++;
      end = at;
    }
    if (end < text.length) onText(end === 0 ? text : text.slice(end), end === 0);
  }
}

function touchesWord(text: string, at: number, length: number): boolean {
  return wordCharacter.test(text[at - 1] ?? "") || wordCharacter.test(text[at + length] ?? "");
}
