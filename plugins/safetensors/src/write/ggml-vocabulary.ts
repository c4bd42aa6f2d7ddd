import { endTokenNames } from "@lowbit/core";
import { safetensorsError } from "../errors.ts";

/** As `tokenizer.ggml.token_type` has them. */
export const tokenTypes = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** Characters; published vocabularies stay below. Merges are found in the square of it. */
const maxTokenLength = 1024;

type Special = "bos" | "eos" | "unknown" | "padding" | "cls" | "mask" | "seperator" | "eot" | "eom";

/** The `tokenizer.ggml.*` keys of GGUF metadata. Throws `file-corrupt` for what is missing or of the wrong type. */
export class GgmlVocabulary {
  readonly tokens: readonly string[];
  readonly model: string;
  readonly #metadata: ReadonlyMap<string, unknown>;
  readonly #types: ArrayLike<number> | undefined;
  readonly #ids = new Map<string, number>();

  constructor(metadata: ReadonlyMap<string, unknown>, model: string) {
    this.#metadata = metadata;
    this.model = model;
    const tokens = this.#get("tokens");
    if (!Array.isArray(tokens) || !tokens.every((token) => typeof token === "string")) {
      throw invalid("tokens", "an array of strings");
    }
    this.tokens = tokens as readonly string[];
    this.#types = this.numbers("token_type");
    for (const [id, token] of this.tokens.entries()) {
      const other = this.#ids.get(token);
      if (token.length > maxTokenLength) {
        const what = `Token ${id} is ${token.length} characters long; the limit is ${maxTokenLength}.`;
        throw safetensorsError("file-corrupt", "limit-exceeded", what);
      }
      // Empty names are padding.
      if (token === "") continue;
      if (other !== undefined) {
        const what = `Tokens ${other} and ${id} are both ${JSON.stringify(token)}.`;
        throw safetensorsError("file-corrupt", "duplicate", what);
      }
      this.#ids.set(token, id);
    }
  }

  id(token: string): number | undefined {
    return this.#ids.get(token);
  }

  /** Names that end a turn are special even where a converter left them plain. */
  type(id: number): number {
    const given = this.#types?.[id] ?? tokenTypes.normal;
    return endTokenNames.includes(this.tokens[id] ?? "") ? tokenTypes.control : given;
  }

  isSpecial(id: number): boolean {
    const type = this.type(id);
    return type === tokenTypes.control || type === tokenTypes.unknown;
  }

  text(name: string): string | undefined {
    const value = this.#get(name);
    if (value === undefined || typeof value === "string") return value;
    throw invalid(name, "a string");
  }

  flag(name: string): boolean | undefined {
    const value = this.#get(name);
    if (value === undefined || typeof value === "boolean") return value;
    throw invalid(name, "true or false");
  }

  /** Numbers, one for each token. */
  numbers(name: string): ArrayLike<number> | undefined {
    const value = this.#get(name);
    if (value === undefined) return undefined;
    const list = value as ArrayLike<unknown>;
    const isList = Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
    if (!isList || list.length !== this.tokens.length) throw invalid(name, "a number for each token");
    for (let i = 0; i < list.length; i++) {
      if (typeof list[i] !== "number" || Number.isNaN(list[i]))
        throw invalid(name, "a number for each token");
    }
    return list as ArrayLike<number>;
  }

  strings(name: string): readonly string[] {
    const value = this.#get(name);
    if (Array.isArray(value) && value.every((item) => typeof item === "string")) return value as string[];
    throw invalid(name, "an array of strings");
  }

  bytes(name: string): Uint8Array | undefined {
    const value = this.#get(name);
    if (value === undefined) return undefined;
    if (value instanceof Uint8Array) return value;
    if (value instanceof Int8Array) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    throw invalid(name, "an array of bytes");
  }

  /** A token id that the file names, else `otherwise`, if the vocabulary has it. */
  special(name: Special, otherwise?: number): number | undefined {
    const key = `${name}_token_id`;
    const value = this.#get(key) ?? otherwise;
    // "None" is written −1, as u32 or i32.
    if (value === undefined || value === -1 || value === 0xffffffff) return undefined;
    const inside = typeof value === "number" && Number.isInteger(value) && value >= 0;
    if (inside && value < this.tokens.length) return value;
    if (this.#get(key) === undefined) return undefined;
    throw invalid(key, `the id of one of the ${this.tokens.length} tokens`);
  }

  #get(name: string): unknown {
    return this.#metadata.get(`tokenizer.ggml.${name}`);
  }
}

function invalid(name: string, expected: string): Error {
  return safetensorsError("file-corrupt", "invalid-type", `tokenizer.ggml.${name} is not ${expected}.`);
}
