import { LowbitError } from "@lowbit/core";

const word = "\\p{L}\\p{M}\\p{Nd}\\p{Pc}";

/** Escapes that mean something else in JavaScript; the text fits inside a class and, in brackets, outside. */
const shorthands: Readonly<Record<string, string>> = {
  s: "\\p{White_Space}",
  d: "\\p{Nd}",
  w: word,
  h: "0-9a-fA-F",
};
const negated: Readonly<Record<string, string>> = { S: "\\P{White_Space}", D: "\\P{Nd}" };
const boundary = `(?:(?<=[${word}])(?![${word}])|(?<![${word}])(?=[${word}]))`;

/** Unbounded repetitions in one alternative; splitting patterns get by with two. */
const maxRepetitions = 3;

/**
 * Compiles a splitting pattern written for the Rust and C++ tokenizers (Oniguruma) as a global JavaScript one.
 * Case-insensitive groups are spelled out, \s is Unicode's White_Space, possessive quantifiers become greedy.
 * Throws `format-unsupported`/"unsupported-pattern" for what can't be said, and for repetitions inside repetitions,
 * which can take exponential time.
 */
export function compilePattern(source: string): RegExp {
  const state: Translator = { source, at: 0, output: "" };
  const repeats = alternatives(state, false, 0);
  if (state.at < source.length) throw unsupported(source, "a parenthesis has no partner");
  if (repeats > maxRepetitions) throw unsupported(source, "an alternative has too many repetitions");
  try {
    return new RegExp(state.output, "gu");
  } catch (cause) {
    throw unsupported(source, "it is no regular expression", cause);
  }
}

interface Translator {
  readonly source: string;
  at: number;
  output: string;
}

/** Translates up to the closing parenthesis; returns the most unbounded repetitions that an alternative has. */
function alternatives(state: Translator, ignoreCase: boolean, depth: number): number {
  if (depth > 20) throw unsupported(state.source, "groups are nested too deeply");
  let most = 0;
  let current = 0;
  while (state.at < state.source.length && state.source[state.at] !== ")") {
    if (state.source[state.at] === "|") {
      state.output += "|";
      state.at++;
      current = 0;
      continue;
    }
    const inner = atom(state, ignoreCase, depth);
    const unbounded = quantifier(state);
    if (unbounded && inner > 0) throw unsupported(state.source, "a repetition is inside a repetition");
    current += inner + (unbounded ? 1 : 0);
    most = Math.max(most, current);
  }
  return most;
}

/** Translates one character, class or group; returns the unbounded repetitions inside it. */
function atom(state: Translator, ignoreCase: boolean, depth: number): number {
  const { source } = state;
  const character = String.fromCodePoint(source.codePointAt(state.at)!);
  switch (character) {
    case "(":
      return group(state, ignoreCase, depth);
    case "[":
      state.output += characterClass(state, ignoreCase);
      return 0;
    case "\\":
      state.output += escapeSequence(state, false);
      return 0;
  }
  state.at += character.length;
  if (character === ".") state.output += "[^\\n]";
  else if (character === "^") state.output += "(?:^|(?<=\\n))";
  else if (character === "$") state.output += "(?:$|(?=\\n))";
  else if (character === "{" || character === "}" || character === "]") state.output += `\\${character}`;
  else
    state.output += ignoreCase && cased(character) !== "" ? `[${character}${cased(character)}]` : character;
  return 0;
}

const groupStart = /\((?:\?(?:i:|:|=|!|<=|<!))?/y;

function group(state: Translator, ignoreCase: boolean, depth: number): number {
  groupStart.lastIndex = state.at;
  const start = groupStart.exec(state.source)![0];
  if (start === "(" && state.source[state.at + 1] === "?") {
    throw unsupported(state.source, "it has a kind of group that isn't known");
  }
  state.at += start.length;
  const insensitive = start === "(?i:";
  // Captures aren't used.
  state.output += insensitive || start === "(" ? "(?:" : start;
  const repeats = alternatives(state, ignoreCase || insensitive, depth + 1);
  if (state.source[state.at] !== ")") throw unsupported(state.source, "a parenthesis has no partner");
  state.at++;
  state.output += ")";
  return repeats;
}

const quantifierText = /(?:[*+?]|\{\d*(?:,\d*)?\})[?+]?/y;

/** Returns whether it is unbounded. */
function quantifier(state: Translator): boolean {
  quantifierText.lastIndex = state.at;
  const match = quantifierText.exec(state.source);
  if (match === null || /^\{,?\}/.test(match[0])) return false;
  state.at += match[0].length;
  const possessive = match[0].length > 1 && match[0].endsWith("+");
  const text = (possessive ? match[0].slice(0, -1) : match[0]).replace("{,", "{0,");
  state.output += text;
  return /^[*+]|,\}/.test(text);
}

function characterClass(state: Translator, ignoreCase: boolean): string {
  const { source } = state;
  let output = "[";
  state.at++;
  if (source[state.at] === "^") {
    output += "^";
    state.at++;
  }
  for (let first = true; source[state.at] !== "]" || first; first = false) {
    const code = source.codePointAt(state.at);
    if (code === undefined) throw unsupported(source, "a bracket has no partner");
    const character = String.fromCodePoint(code);
    if (character === "\\") {
      output += escapeSequence(state, true);
      continue;
    }
    if (character === "[" || source.startsWith("&&", state.at)) {
      throw unsupported(source, "it has a class inside a class");
    }
    state.at += character.length;
    const range = /^-([^\]\\[])/u.exec(source.slice(state.at, state.at + 3));
    if (ignoreCase && range !== null) {
      // Both ends at once: "a-z" is "a-zA-Z", not "aA-zZ".
      state.at += range[0].length;
      output += character + range[0];
      if (cased(character) !== "" && cased(range[1]!) !== "")
        output += `${cased(character)}-${cased(range[1]!)}`;
      continue;
    }
    output += character === "]" ? "\\]" : character;
    if (ignoreCase) output += cased(character);
  }
  state.at++;
  return `${output}]`;
}

const propertyText = /[pP]\{(\^?)([A-Za-z_&= ]+)\}/y;
const codePointText = /[xu]\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})/y;
const categories =
  /^(?:[LMNPSZC][a-z&]?|[A-Za-z]+=\w+|White_Space|Alphabetic|Uppercase|Lowercase|Emoji\w*|Any)$/;

function escapeSequence(state: Translator, inClass: boolean): string {
  const { source } = state;
  const start = state.at + 1;
  const character = source[start] ?? "";
  propertyText.lastIndex = start;
  const property = propertyText.exec(source);
  if (property !== null) {
    state.at = start + property[0].length;
    const letter = (property[0][0] === "P") !== (property[1] === "^") ? "P" : "p";
    const name = property[2]!;
    return `\\${letter}{${categories.test(name) ? name : `Script=${name}`}}`;
  }
  codePointText.lastIndex = start;
  const codePoint = codePointText.exec(source);
  if (codePoint !== null) {
    state.at = start + codePoint[0].length;
    return `\\u{${codePoint[1] ?? codePoint[2] ?? codePoint[3]}}`;
  }
  state.at = start + 1;
  const shorthand = shorthands[character];
  if (shorthand !== undefined)
    return inClass || character === "s" || character === "d" ? shorthand : `[${shorthand}]`;
  if (negated[character] !== undefined) return negated[character];
  if (character === "W" && !inClass) return `[^${word}]`;
  if (character === "b" && !inClass) return boundary;
  if (/[rntfv]/.test(character)) return `\\${character}`;
  if (/[A-Za-z0-9]/.test(character) || character === "") {
    throw unsupported(source, `the escape \\${character} is not known`);
  }
  if (/[$()*+.?[\\\]^{|}/]/.test(character) || (inClass && character === "-")) return `\\${character}`;
  return character;
}

/** An ASCII letter in its other case. */
function cased(character: string): string {
  if (!/^[A-Za-z]$/.test(character)) return "";
  const lower = character.toLowerCase();
  return lower === character ? character.toUpperCase() : lower;
}

function unsupported(source: string, why: string, cause?: unknown): LowbitError {
  const shown = source.length > 200 ? `${source.slice(0, 200)}…` : source;
  return new LowbitError(
    "format-unsupported",
    `The splitting pattern ${JSON.stringify(shown)} can't be used: ${why}.`,
    {
      reason: "unsupported-pattern",
      plugin: "tokenizers",
      cause,
    },
  );
}
