import type { LowbitError } from "@lowbit/core";
import { type Vocabulary, vocabularyError } from "./vocabulary.ts";

/** Reads `tokenizer.ggml.*` of GGUF metadata and checks what it reads. */
export class GgmlKeys {
  readonly #metadata: ReadonlyMap<string, unknown>;

  constructor(metadata: ReadonlyMap<string, unknown>) {
    this.#metadata = metadata;
  }

  string(name: string): string | undefined {
    const value = this.#get(name);
    if (value === undefined || typeof value === "string") return value;
    throw wrongType(name, value, "a string");
  }

  boolean(name: string): boolean | undefined {
    const value = this.#get(name);
    if (value === undefined || typeof value === "boolean") return value;
    throw wrongType(name, value, "true or false");
  }

  /** A token id within the vocabulary. */
  id(name: string, vocabulary: Vocabulary): number | undefined {
    const value = this.#get(name);
    if (value === undefined) return undefined;
    if (typeof value !== "number") throw wrongType(name, value, "a token id");
    // Writers say "none" with -1, as a u32 or an i32.
    if (value === 0xffffffff || value === -1) return undefined;
    return vocabulary.checkId(value, `tokenizer.ggml.${name}`);
  }

  array(name: string): ArrayLike<unknown> | undefined {
    const value = this.#get(name);
    if (value === undefined) return undefined;
    if (Array.isArray(value)) return value;
    if (ArrayBuffer.isView(value) && !(value instanceof DataView))
      return value as unknown as ArrayLike<unknown>;
    throw wrongType(name, value, "an array");
  }

  /** Throws `file-corrupt`/"missing-metadata" if there is none. */
  requiredArray(name: string): ArrayLike<unknown> {
    const value = this.array(name);
    if (value !== undefined) return value;
    throw vocabularyError(
      "missing-metadata",
      `tokenizer.ggml.${name} is missing; this kind of tokenizer needs it.`,
    );
  }

  /** Numbers, one per token. */
  numbers(name: string, length: number): ArrayLike<number> | undefined {
    const value = this.array(name);
    if (value === undefined) return undefined;
    if (value.length !== length) {
      throw vocabularyError(
        "invalid-value",
        `tokenizer.ggml.${name} has ${value.length} entries for ${length} tokens.`,
      );
    }
    for (let i = 0; i < length; i++) {
      if (typeof value[i] !== "number" || Number.isNaN(value[i])) {
        throw vocabularyError("invalid-value", `tokenizer.ggml.${name}[${i}] is not a number.`);
      }
    }
    return value as ArrayLike<number>;
  }

  requiredNumbers(name: string, length: number): ArrayLike<number> {
    this.requiredArray(name);
    return this.numbers(name, length)!;
  }

  /** An array of bytes, signed or not. */
  bytes(name: string): Uint8Array | undefined {
    const value = this.array(name);
    if (value === undefined) return undefined;
    if (value instanceof Uint8Array) return value;
    if (value instanceof Int8Array) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    throw wrongType(name, value, "an array of bytes");
  }

  #get(name: string): unknown {
    return this.#metadata.get(`tokenizer.ggml.${name}`);
  }
}

function wrongType(name: string, value: unknown, expected: string): LowbitError {
  return vocabularyError(
    "invalid-type",
    `tokenizer.ggml.${name} is of type ${typeof value}; expected ${expected}.`,
  );
}
