import { type Vocabulary, vocabularyError } from "./vocabulary.ts";

/** Reads parsed JSON whose objects are plain ones or maps. `at` names the place in messages. */
export class JsonFields {
  readonly #value: unknown;
  readonly at: string;

  constructor(value: unknown, at: string) {
    this.#value = value;
    this.at = at;
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw wrongType(at, value, "an object");
    }
  }

  /** `null` counts as absent. */
  get(name: string): unknown {
    const value = this.#value as object;
    const found =
      value instanceof Map
        ? (value as ReadonlyMap<unknown, unknown>).get(name)
        : Object.hasOwn(value, name)
          ? (value as Readonly<Record<string, unknown>>)[name]
          : undefined;
    return found ?? undefined;
  }

  *entries(): IterableIterator<readonly [name: string, value: unknown]> {
    const value = this.#value as object;
    if (value instanceof Map) yield* value as ReadonlyMap<string, unknown>;
    else
      for (const name of Object.keys(value)) yield [name, (value as Readonly<Record<string, unknown>>)[name]];
  }

  object(name: string): JsonFields | undefined {
    const value = this.get(name);
    return value === undefined ? undefined : new JsonFields(value, `${this.at}.${name}`);
  }

  objects(name: string): readonly JsonFields[] {
    return this.array(name).map((value, i) => new JsonFields(value, `${this.at}.${name}[${i}]`));
  }

  /** Empty where absent. */
  array(name: string): readonly unknown[] {
    const value = this.get(name);
    if (value === undefined || Array.isArray(value)) return (value ?? []) as readonly unknown[];
    throw wrongType(`${this.at}.${name}`, value, "an array");
  }

  string(name: string): string | undefined {
    const value = this.get(name);
    if (value === undefined || typeof value === "string") return value;
    throw wrongType(`${this.at}.${name}`, value, "a string");
  }

  boolean(name: string): boolean | undefined {
    const value = this.get(name);
    if (value === undefined || typeof value === "boolean") return value;
    throw wrongType(`${this.at}.${name}`, value, "true or false");
  }

  number(name: string): number | undefined {
    const value = this.get(name);
    if (value === undefined || typeof value === "number") return value;
    throw wrongType(`${this.at}.${name}`, value, "a number");
  }

  /** Id of the token that a field names; the field may hold its text, or an object with `content`. */
  token(name: string, vocabulary: Vocabulary): number | undefined {
    const value = this.get(name);
    if (value === undefined) return undefined;
    const text = typeof value === "string" ? value : this.object(name)!.string("content");
    return text === undefined ? undefined : vocabulary.id(text);
  }
}

export function wrongType(at: string, value: unknown, expected: string): Error {
  return vocabularyError("invalid-type", `${at} is ${kindOf(value)}; expected ${expected}.`);
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "an array" : `of type ${typeof value}`;
}
