/** Follows the text of one JSON object as it comes, far enough to find a call's name and arguments in it. */
export interface CallScanner {
  /** Takes text from its beginning up to the end of the object; the rest is not its own. Returns how much it took. */
  push(text: string): number;
  readonly ended: boolean;
  /** All taken so far. */
  readonly text: string;
  readonly name: string | undefined;
  /** The arguments as far as they are known to be part of them, as they stand in the text. */
  readonly input: string;
  /** Of an ended call: arguments as JSON, or undefined if this is none. */
  finish(): string | undefined;
}

/** `name`: the object is the arguments alone. */
export function createCallScanner(argumentKeys: readonly string[], given?: string): CallScanner {
  let text = "";
  let depth = 0;
  let inString = false;
  let escaped = false;
  let ended = false;
  let name = given;
  /** Of the value at the first level that is being read. */
  let key: string | undefined;
  let valueFrom = -1;
  let stringFrom = 0;
  let inputFrom = given === undefined ? -1 : 0;
  let inputTo = -1;

  const endValue = (at: number): void => {
    if (key === undefined || valueFrom < 0) return;
    const value = text.slice(valueFrom, at);
    if (key === "name") name ??= textOf(value);
    if (valueFrom === inputFrom) inputTo = at;
    key = undefined;
    valueFrom = -1;
  };

  const step = (character: string, at: number): void => {
    if (inString) {
      if (escaped) escaped = false;
      else if (character === "\\") escaped = true;
      else if (character === '"') {
        inString = false;
        if (depth === 1 && key === undefined) key = textOf(text.slice(stringFrom, at + 1));
      }
      return;
    }
    if (depth === 1 && key !== undefined && valueFrom === -2 && !/\s/.test(character)) {
      valueFrom = at;
      if (given === undefined && argumentKeys.includes(key) && inputFrom < 0) inputFrom = at;
    }
    if (character === '"') {
      inString = true;
      stringFrom = at;
    } else if (character === "{" || character === "[") depth++;
    else if (character === "}" || character === "]") {
      if (depth === 1) endValue(trimmedEnd(text, at));
      if (--depth === 0) ended = true;
      if (depth === 1 && valueFrom === inputFrom && inputFrom >= 0) inputTo = at + 1;
    } else if (depth === 1) {
      if (character === ":" && key !== undefined && valueFrom === -1) valueFrom = -2;
      if (character === ",") endValue(trimmedEnd(text, at));
    }
  };

  return {
    push(more) {
      let at = 0;
      while (at < more.length && !ended) {
        const position = text.length;
        text += more[at];
        step(more[at++]!, position);
      }
      return at;
    },
    get ended() {
      return ended;
    },
    get text() {
      return text;
    },
    get name() {
      return name;
    },
    get input() {
      if (inputFrom < 0 || text[inputFrom] !== "{") return "";
      return text.slice(inputFrom, given !== undefined || inputTo < 0 ? undefined : inputTo);
    },
    finish() {
      if (!ended || name === undefined || name === "") return undefined;
      const value = parsed(text);
      if (!isObject(value)) return undefined;
      if (given !== undefined) return text;
      if (inputFrom < 0) return "{}";
      const raw = text.slice(inputFrom, inputTo);
      const input = parsed(raw);
      if (isObject(input)) return raw;
      // Some models write the arguments as a string of JSON.
      return typeof input === "string" && isObject(parsed(input)) ? input : undefined;
    },
  };
}

function trimmedEnd(text: string, at: number): number {
  return text.slice(0, at).trimEnd().length;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function textOf(json: string): string | undefined {
  const value = parsed(json);
  return typeof value === "string" ? value : undefined;
}

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
