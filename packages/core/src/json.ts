import { LowbitError } from "./errors.ts";

/** Objects are maps, so that names such as "__proto__" are plain names. */
export type JsonValue =
  | null
  | boolean
  | number
  | string
  | readonly JsonValue[]
  | ReadonlyMap<string, JsonValue>;

/** JSON to be written: what `JSON.stringify` takes. */
export type PlainJson =
  | null
  | boolean
  | number
  | string
  | readonly PlainJson[]
  | { readonly [key: string]: PlainJson };

/** Deeper nesting is refused before it can exhaust the stack. */
const maxDepth = 100;

/**
 * Strict JSON for files from outside: `JSON.parse` takes a name that occurs twice, and its objects inherit properties.
 * Throws `file-corrupt` with reason "invalid-json" or "duplicate". `what` names the text in messages.
 */
export function parseJson(text: string, what: string): JsonValue {
  const state: Parser = { text, what, at: 0, depth: 0 };
  skipSpace(state);
  const value = parseValue(state);
  skipSpace(state);
  if (state.at < text.length) throw invalid(state, "something follows the value");
  return value;
}

interface Parser {
  readonly text: string;
  readonly what: string;
  at: number;
  depth: number;
}

const number = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const literals: readonly (readonly [string, JsonValue])[] = [
  ["true", true],
  ["false", false],
  ["null", null],
];

function parseValue(state: Parser): JsonValue {
  const { text, at } = state;
  switch (text[at]) {
    case "{":
      return nested(state, parseObject);
    case "[":
      return nested(state, parseArray);
    case '"':
      return parseString(state);
  }
  for (const [word, value] of literals) {
    if (!text.startsWith(word, at)) continue;
    state.at += word.length;
    return value;
  }
  number.lastIndex = at;
  const match = number.exec(text);
  if (match === null) throw invalid(state, "a value is missing");
  state.at += match[0].length;
  return Number(match[0]);
}

function nested<T>(state: Parser, parse: (state: Parser) => T): T {
  if (++state.depth > maxDepth) throw invalid(state, `it nests deeper than ${maxDepth}`);
  state.at++;
  const value = parse(state);
  state.depth--;
  return value;
}

function parseObject(state: Parser): ReadonlyMap<string, JsonValue> {
  const object = new Map<string, JsonValue>();
  while (!closes(state, "}", object.size === 0)) {
    if (state.text[state.at] !== '"') throw invalid(state, "a name is missing");
    const name = parseString(state);
    if (object.has(name)) {
      throw new LowbitError("file-corrupt", `${state.what}: the name ${JSON.stringify(name)} occurs twice.`, {
        reason: "duplicate",
      });
    }
    skipSpace(state);
    if (state.text[state.at++] !== ":") throw invalid(state, 'a ":" is missing');
    skipSpace(state);
    object.set(name, parseValue(state));
  }
  return object;
}

function parseArray(state: Parser): JsonValue[] {
  const array: JsonValue[] = [];
  while (!closes(state, "]", array.length === 0)) array.push(parseValue(state));
  return array;
}

/** Steps over the closing bracket, or over the comma that must stand before every item but the first. */
function closes(state: Parser, bracket: string, first: boolean): boolean {
  skipSpace(state);
  const character = state.text[state.at];
  if (character === bracket) {
    state.at++;
    return true;
  }
  if (first) return false;
  if (character !== ",") throw invalid(state, `a "," or "${bracket}" is missing`);
  state.at++;
  skipSpace(state);
  return false;
}

function parseString(state: Parser): string {
  const { text, at } = state;
  let end = at + 1;
  let plain = true;
  for (; ; end++) {
    const code = text.charCodeAt(end);
    if (code === 0x22) break;
    if (code === 0x5c) {
      plain = false;
      end++;
    } else if (!(code >= 0x20)) {
      // Control characters, and NaN past the end of the text.
      throw invalid(state, "a string does not end");
    }
  }
  state.at = end + 1;
  if (plain) return text.slice(at + 1, end);
  try {
    return JSON.parse(text.slice(at, end + 1)) as string;
  } catch (cause) {
    throw invalid(state, "a string has an unknown escape", cause);
  }
}

function skipSpace(state: Parser): void {
  const { text } = state;
  for (; ; state.at++) {
    const code = text.charCodeAt(state.at);
    if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
  }
}

function invalid(state: Parser, problem: string, cause?: unknown): LowbitError {
  return new LowbitError("file-corrupt", `${state.what} is not valid JSON: ${problem}, at ${state.at}.`, {
    reason: "invalid-json",
    cause,
  });
}
