/**
 * Guesses what comes next in one text. The model checks the guesses in one pass and keeps those that it would have written itself, so a
 * guesser decides how fast a text comes, never what it says.
 */
export interface Guesser {
  /** The token that follows. */
  push(token: number): void;
  /** At most `most` tokens that may come next, in their order; none if it has no idea. */
  guess(most: number): readonly number[] | Promise<readonly number[]>;
  /** Gives back what it holds. Nothing is asked of it afterwards. */
  close(): void;
}
