import type { Guesser } from "./guesser.ts";

/** Endings of so many tokens are looked for, longest first. */
const longest = 4;
const shortest = 2;

/**
 * Prompt-lookup decoding (Saxena 2023): the last tokens are searched in the prompt and in what has been written, and what followed them there is the guess. The
 * latest place wins. Endings are indexed as they come, so that a guess costs nothing that grows with the text.
 */
export function createLookup(prompt: readonly number[]): Guesser & { guess(most: number): number[] } {
  const tokens: number[] = [];
  /** By length and tokens of an ending: where the text went on after its latest occurrence but this one. */
  const seen = Array.from({ length: longest + 1 }, () => new Map<string, number>());
  const ending = (length: number): string => tokens.slice(-length).join();
  const push = (token: number): void => {
    // What ends here goes on with `token`.
    for (let length = shortest; length <= Math.min(longest, tokens.length); length++) {
      seen[length]?.set(ending(length), tokens.length);
    }
    tokens.push(token);
  };
  for (const token of prompt) push(token);
  return {
    push,
    guess(most) {
      if (most < 1) return [];
      for (let length = Math.min(longest, tokens.length); length >= shortest; length--) {
        const at = seen[length]?.get(ending(length));
        if (at !== undefined) return tokens.slice(at, at + most);
      }
      return [];
    },
    close: () => undefined,
  };
}
