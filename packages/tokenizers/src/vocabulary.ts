import { LowbitError } from "@lowbit/core";

/** What a token is for; the numbers are those of `tokenizer.ggml.token_type`. */
export const TokenType = {
  normal: 1,
  unknown: 2,
  control: 3,
  userDefined: 4,
  unused: 5,
  byte: 6,
} as const;

/** More than any published vocabulary; ids and merge ranks fit 21 bits, which `merge.ts` counts on. */
export const maxTokens: number = 1 << 21;

/** UTF-16 units. The longest tokens of published vocabularies are runs of a few hundred characters. */
export const maxTokenLength: number = 1024;

/** Raised for everything that is wrong with a tokenizer's description. */
export function vocabularyError(reason: string, message: string, hint?: string): LowbitError {
  return new LowbitError("file-corrupt", message, {
    reason,
    plugin: "tokenizers",
    ...(hint === undefined ? {} : { hint }),
  });
}

/** The tokens as written in the file, with their types. */
export class Vocabulary {
  readonly tokens: readonly string[];
  /** One of `TokenType` per id. */
  readonly types: Uint8Array;
  readonly #ids = new Map<string, number>();

  /**
   * Empty names are padding and can't be looked up.
   * Throws `file-corrupt`: "limit-exceeded", "invalid-type", "duplicate".
   */
  constructor(tokens: ArrayLike<unknown>, types: Uint8Array) {
    if (tokens.length === 0 || tokens.length > maxTokens) {
      throw vocabularyError(
        "limit-exceeded",
        `The vocabulary has ${tokens.length} tokens; expected 1 to ${maxTokens}.`,
      );
    }
    for (let id = 0; id < tokens.length; id++) {
      const token = tokens[id];
      if (typeof token !== "string") {
        throw vocabularyError("invalid-type", `Token ${id} is of type ${typeof token}; expected a string.`);
      }
      if (token.length > maxTokenLength) {
        throw vocabularyError(
          "limit-exceeded",
          `Token ${id} is ${token.length} characters long; the limit is ${maxTokenLength}.`,
        );
      }
      if (token === "") continue;
      const other = this.#ids.get(token);
      if (other !== undefined) {
        throw vocabularyError("duplicate", `Tokens ${other} and ${id} are both ${JSON.stringify(token)}.`);
      }
      this.#ids.set(token, id);
    }
    this.tokens = tokens as readonly string[];
    this.types = types;
  }

  get size(): number {
    return this.tokens.length;
  }

  id(token: string): number | undefined {
    return this.#ids.get(token);
  }

  type(id: number): number | undefined {
    return this.types[id];
  }

  isSpecial(id: number): boolean {
    const type = this.types[id];
    return type === TokenType.control || type === TokenType.unknown;
  }

  /** Checks an id that the file names. */
  checkId(id: number, what: string): number {
    if (!Number.isInteger(id) || id < 0 || id >= this.size) {
      throw vocabularyError("invalid-value", `${what} is ${id}, but the vocabulary has ${this.size} tokens.`);
    }
    return id;
  }
}
