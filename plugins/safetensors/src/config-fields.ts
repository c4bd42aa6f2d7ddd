import type { JsonValue, LowbitError } from "@lowbit/core";
import { safetensorsError } from "./errors.ts";

/** A parsed JSON object. */
export type JsonObject = ReadonlyMap<string, JsonValue>;

/** What a family calls fields, and what it takes for absent ones; both by customary name. */
export interface FieldHabits {
  readonly aliases?: Readonly<Record<string, string>>;
  readonly defaults?: Readonly<Record<string, number>>;
}

export interface IntegerRange {
  readonly min?: number;
  readonly max?: number;
}

/**
 * Typed access to one object of config.json; `null` counts as absent. A required field that is absent throws
 * `file-corrupt`/`missing-metadata`, one of the wrong type or range `file-corrupt`/`invalid-value`.
 */
export class ConfigFields {
  readonly #value: JsonObject;
  readonly #at: string;
  readonly #file: string;
  readonly #habits: FieldHabits;

  /** `at` is the path of the object inside the file, "" or "rope_scaling." */
  constructor(value: JsonObject, file: string, at = "", habits: FieldHabits = {}) {
    this.#value = value;
    this.#file = file;
    this.#at = at;
    this.#habits = habits;
  }

  /** The same fields as a family has them. */
  with(habits: FieldHabits): ConfigFields {
    return new ConfigFields(this.#value, this.#file, this.#at, habits);
  }

  get(name: string): JsonValue | undefined {
    const { defaults } = this.#habits;
    const otherwise = defaults && Object.hasOwn(defaults, name) ? defaults[name] : undefined;
    return this.#value.get(this.#own(name)) ?? otherwise;
  }

  /** An integer, by default at least 1. */
  integer(name: string, range?: IntegerRange): number;
  integer<T>(name: string, range: IntegerRange, otherwise: T): number | T;
  integer(name: string, { min = 1, max = 2 ** 31 - 1 }: IntegerRange = {}, ...otherwise: unknown[]): unknown {
    const value = this.get(name);
    if (value === undefined) {
      if (otherwise.length > 0) return otherwise[0];
      throw this.missing(name);
    }
    const valid = typeof value === "number" && Number.isInteger(value) && value >= min && value <= max;
    if (!valid) throw this.invalid(name, value, `an integer from ${min} to ${max}`);
    return value;
  }

  /** A finite number above `above`, rounded to f32 as every implementation has it. */
  number(name: string, above: number): number;
  number<T>(name: string, above: number, otherwise: T): number | T;
  number(name: string, above: number, ...otherwise: unknown[]): unknown {
    const value = this.get(name);
    if (value === undefined) {
      if (otherwise.length > 0) return otherwise[0];
      throw this.missing(name);
    }
    const rounded = typeof value === "number" ? Math.fround(value) : Number.NaN;
    if (!Number.isFinite(rounded) || !(rounded > above)) {
      throw this.invalid(name, value, `a number above ${above}`);
    }
    return rounded;
  }

  text(name: string): string | undefined {
    const value = this.get(name);
    if (value !== undefined && typeof value !== "string") throw this.invalid(name, value, "a string");
    return value;
  }

  flag(name: string): boolean | undefined {
    const value = this.get(name);
    if (value !== undefined && typeof value !== "boolean") throw this.invalid(name, value, "true or false");
    return value;
  }

  list(name: string): readonly JsonValue[] | undefined {
    const value = this.get(name);
    if (value !== undefined && !isList(value)) throw this.invalid(name, value, "an array");
    return value;
  }

  object(name: string): ConfigFields | undefined {
    const value = this.get(name);
    if (value === undefined) return undefined;
    if (!(value instanceof Map)) throw this.invalid(name, value, "an object");
    return new ConfigFields(value as JsonObject, this.#file, `${this.#at}${name}.`);
  }

  missing(name: string): LowbitError {
    return safetensorsError(
      "file-corrupt",
      "missing-metadata",
      `${this.#file} has no "${this.#at}${this.#own(name)}".`,
      {
        hint: "It is no complete model configuration; fetch it again.",
      },
    );
  }

  invalid(name: string, value: JsonValue | undefined, expected: string): LowbitError {
    const what = `${this.#file}: "${this.#at}${this.#own(name)}" is ${describe(value)}; expected ${expected}.`;
    return safetensorsError("file-corrupt", "invalid-value", what);
  }

  /** For values that are legal but that no code here runs. */
  unsupported(reason: string, what: string): LowbitError {
    return safetensorsError("architecture-unsupported", reason, `${this.#file}: ${what}.`);
  }

  #own(name: string): string {
    const { aliases } = this.#habits;
    return (aliases && Object.hasOwn(aliases, name) ? aliases[name] : undefined) ?? name;
  }
}

function describe(value: JsonValue | undefined): string {
  if (isList(value)) return `an array of ${value.length}`;
  if (value instanceof Map) return "an object";
  return JSON.stringify(value)?.slice(0, 100) ?? "absent";
}

function isList(value: JsonValue | undefined): value is readonly JsonValue[] {
  return Array.isArray(value);
}
