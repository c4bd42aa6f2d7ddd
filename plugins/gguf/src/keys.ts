import { ggufError } from "./container.ts";

export interface IntegerRange {
  readonly min?: number;
  readonly max?: number;
}

/**
 * Typed access to the metadata of one architecture: `integer("block_count")` reads "llama.block_count". A required key that
 * is absent throws `file-corrupt`/`missing-metadata`, one of the wrong type or range `file-corrupt`/`invalid-value`.
 */
export class Keys {
  readonly architecture: string;
  readonly #metadata: ReadonlyMap<string, unknown>;
  readonly #file: string;

  constructor(metadata: ReadonlyMap<string, unknown>, file: string) {
    this.#metadata = metadata;
    this.#file = file;
    const architecture = metadata.get("general.architecture");
    if (architecture === undefined) throw this.missing("general.architecture");
    if (typeof architecture !== "string" || architecture === "") {
      throw this.invalid("general.architecture", architecture, "a name");
    }
    this.architecture = architecture;
  }

  has(key: string): boolean {
    return this.#metadata.has(this.#full(key));
  }

  /** An integer, by default at least 1. Arrays with the same value for every layer count as that value. */
  integer(key: string, range?: IntegerRange): number;
  integer<T>(key: string, range: IntegerRange, otherwise: T): number | T;
  integer(key: string, { min = 1, max = 2 ** 31 - 1 }: IntegerRange = {}, ...otherwise: unknown[]): unknown {
    const full = this.#full(key);
    const value = this.#uniform(full);
    if (value === undefined) {
      if (otherwise.length > 0) return otherwise[0];
      throw this.missing(full);
    }
    const valid = typeof value === "number" && Number.isInteger(value) && value >= min && value <= max;
    if (!valid) throw this.invalid(full, value, `an integer from ${min} to ${max}`);
    return value;
  }

  /** A finite number above `above`. */
  number(key: string, above: number): number;
  number<T>(key: string, above: number, otherwise: T): number | T;
  number(key: string, above: number, ...otherwise: unknown[]): unknown {
    const full = this.#full(key);
    const value = this.#metadata.get(full);
    if (value === undefined) {
      if (otherwise.length > 0) return otherwise[0];
      throw this.missing(full);
    }
    const valid = typeof value === "number" && Number.isFinite(value) && value > above;
    if (!valid) throw this.invalid(full, value, `a number above ${above}`);
    return value;
  }

  text(key: string): string | undefined {
    const full = this.#full(key);
    const value = this.#metadata.get(full);
    if (value !== undefined && typeof value !== "string") throw this.invalid(full, value, "a string");
    return value;
  }

  flag(key: string): boolean | undefined {
    const full = this.#full(key);
    const value = this.#metadata.get(full);
    if (value !== undefined && typeof value !== "boolean") throw this.invalid(full, value, "a boolean");
    return value;
  }

  /** A key without the architecture in front. */
  plain(key: string): unknown {
    return this.#metadata.get(key);
  }

  missing(key: string): Error {
    return ggufError("file-corrupt", "missing-metadata", `${this.#file} has no metadata key "${key}".`, {
      hint: "It is no complete model; convert it again with current tools.",
    });
  }

  invalid(key: string, value: unknown, expected: string): Error {
    const found = typeof value === "object" && value !== null ? "an array" : JSON.stringify(String(value));
    return ggufError(
      "file-corrupt",
      "invalid-value",
      `${this.#file}: ${key} is ${found}; expected ${expected}.`,
    );
  }

  /** For values that are legal but that no code here runs. */
  unsupported(reason: string, what: string): Error {
    return ggufError("architecture-unsupported", reason, `${this.#file}: ${what}.`);
  }

  #full(key: string): string {
    return `${this.architecture}.${key}`;
  }

  #uniform(full: string): unknown {
    const value = this.#metadata.get(full);
    if (typeof value !== "object" || value === null || !("length" in value)) return value;
    const values = value as ArrayLike<unknown>;
    for (let i = 1; i < values.length; i++) {
      if (values[i] === values[0]) continue;
      throw this.unsupported("per-layer-sizes", `${full} differs from layer to layer`);
    }
    return values[0];
  }
}
