import { allCharacters, type CodePoints, complement, type Writing } from "./characters.ts";
import { type Expression, type Expressions, union } from "./expression.ts";
import { quote, refuse } from "./refuse.ts";

/**
 * The patterns of JSON Schema: ECMAScript's syntax in Unicode mode, without what no automaton can do. `^` stands at the start of an
 * alternative; lookahead outside of repetitions. Not there: back references, lookbehind, `\b`, `\p`.
 */
type Syntax =
  | { readonly kind: "points"; readonly points: CodePoints }
  | { readonly kind: "sequence" | "choice"; readonly parts: readonly Syntax[] }
  | { readonly kind: "repeat"; readonly part: Syntax; readonly min: number; readonly max: number }
  | { readonly kind: "look"; readonly part: Syntax; readonly not: boolean }
  | { readonly kind: "start" | "end" };

const maxLength = 4000;
const maxDepth = 50;
const maxCount = 100_000;

const lineEnds: CodePoints = [0x0a, 0x0a, 0x0d, 0x0d, 0x2028, 0x2029];
const classes: Readonly<Record<string, CodePoints>> = {
  d: [0x30, 0x39],
  w: [0x30, 0x39, 0x41, 0x5a, 0x5f, 0x5f, 0x61, 0x7a],
  s: [
    0x09, 0x0d, 0x20, 0x20, 0xa0, 0xa0, 0x1680, 0x1680, 0x2000, 0x200a, 0x2028, 0x2029, 0x202f, 0x202f,
    0x205f, 0x205f, 0x3000, 0x3000, 0xfeff, 0xfeff,
  ],
};
const controls: Readonly<Record<string, number>> = { t: 9, n: 10, v: 11, f: 12, r: 13, 0: 0 };

/** The texts in which the pattern finds a match. */
export function compilePattern(
  expressions: Expressions,
  pattern: string,
  writing: Writing,
  where: string,
): Expression {
  if (pattern.length > maxLength)
    throw refuse(where, `the pattern is ${pattern.length} characters long; the limit is ${maxLength}`);
  const syntax = parse(pattern, where);
  const character = writing(expressions, allCharacters);
  const anything = expressions.repeat(character, 0, Number.POSITIVE_INFINITY);
  const build = builder(expressions, writing, anything, where);
  const later = expressions.sequence(anything, build(syntax, anything, false));
  // Of a pattern without ^, what begins at the start is among the rest.
  return hasStart(syntax) ? expressions.choice([build(syntax, anything, true), later]) : later;
}

function hasStart(syntax: Syntax): boolean {
  if (syntax.kind === "start") return true;
  if ("parts" in syntax) return syntax.parts.some(hasStart);
  return "part" in syntax && hasStart(syntax.part);
}

type Build = (syntax: Syntax, rest: Expression, atStart: boolean) => Expression;

/** Builds from the right: each part knows all that follows it, which is what lookahead and `$` speak about. */
function builder(expressions: Expressions, writing: Writing, anything: Expression, where: string): Build {
  const { sequence, choice, both, not, repeat, empty, nothing } = expressions;
  const isWidthless = (syntax: Syntax): boolean => ["look", "start", "end"].includes(syntax.kind);
  const build: Build = (syntax, rest, atStart) => {
    switch (syntax.kind) {
      case "points":
        return sequence(writing(expressions, syntax.points), rest);
      case "sequence": {
        let after = rest;
        for (let i = syntax.parts.length - 1; i >= 0; i--) {
          const starts = atStart && syntax.parts.slice(0, i).every(isWidthless);
          after = build(syntax.parts[i]!, after, starts);
        }
        return after;
      }
      case "choice":
        return choice(syntax.parts.map((part) => build(part, rest, atStart)));
      case "repeat": {
        if (isConditional(syntax.part) && syntax.max === 1)
          return choice([build(syntax.part, rest, atStart), syntax.min === 0 ? rest : nothing]);
        if (isConditional(syntax.part))
          throw refuse(where, "the pattern repeats a lookahead, ^ or $", "Take it out of the repetition.");
        return sequence(repeat(build(syntax.part, empty, false), syntax.min, syntax.max), rest);
      }
      case "look": {
        const seen = build(syntax.part, anything, false);
        return both([rest, syntax.not ? not(seen) : seen]);
      }
      case "start":
        return atStart ? rest : nothing;
      default:
        return rest.nullable ? empty : nothing;
    }
  };
  return build;
}

function isConditional(syntax: Syntax): boolean {
  if ("parts" in syntax) return syntax.parts.some(isConditional);
  return syntax.kind === "repeat" ? isConditional(syntax.part) : syntax.kind !== "points";
}

function parse(pattern: string, where: string): Syntax {
  const characters = [...pattern];
  let at = 0;
  const fail = (what: string): Error => refuse(where, `the pattern ${quote(pattern)} ${what}`);
  const take = (text: string): boolean => {
    if (characters[at] !== text) return false;
    at++;
    return true;
  };

  const alternatives = (depth: number): Syntax => {
    if (depth > maxDepth) throw fail(`nests deeper than ${maxDepth}`);
    const parts = [terms(depth)];
    while (take("|")) parts.push(terms(depth));
    return parts.length === 1 ? parts[0]! : { kind: "choice", parts };
  };

  const terms = (depth: number): Syntax => {
    const parts: Syntax[] = [];
    while (at < characters.length && characters[at] !== "|" && characters[at] !== ")") {
      const part = atom(depth);
      parts.push(part.kind === "start" || part.kind === "end" || part.kind === "look" ? part : counted(part));
    }
    return parts.length === 1 ? parts[0]! : { kind: "sequence", parts };
  };

  const counted = (part: Syntax): Syntax => {
    let counts: [number, number] | undefined;
    if (take("*")) counts = [0, Number.POSITIVE_INFINITY];
    else if (take("+")) counts = [1, Number.POSITIVE_INFINITY];
    else if (take("?")) counts = [0, 1];
    else if (characters[at] === "{") {
      const close = characters.indexOf("}", at);
      const match = /^(\d+)(,(\d*))?$/.exec(characters.slice(at + 1, Math.max(at, close)).join(""));
      if (match === null) throw fail("has a { that is no count; write \\{");
      const min = Number(match[1]);
      const max =
        match[2] === undefined ? min : match[3] === "" ? Number.POSITIVE_INFINITY : Number(match[3]);
      if (max < min || min > maxCount) throw fail(`has the count {${match[0]}}`);
      at = close + 1;
      counts = [min, max];
    }
    if (counts === undefined) return part;
    // A lazy repetition finds other matches in the same texts.
    take("?");
    if ("*+?{".includes(characters[at] ?? "x")) throw fail("repeats a repetition");
    return { kind: "repeat", part, min: counts[0], max: counts[1] };
  };

  const atom = (depth: number): Syntax => {
    const character = characters[at++]!;
    switch (character) {
      case "^":
        return { kind: "start" };
      case "$":
        return { kind: "end" };
      case ".":
        return { kind: "points", points: complement(lineEnds) };
      case "[":
        return { kind: "points", points: set() };
      case "(":
        return group(depth);
      case "\\":
        return { kind: "points", points: escaped(false) };
      case "*":
      case "+":
      case "?":
      case "{":
      case "}":
      case "]":
        throw fail(`has a stray ${character}`);
    }
    const point = character.codePointAt(0)!;
    return { kind: "points", points: [point, point] };
  };

  const group = (depth: number): Syntax => {
    let look: "=" | "!" | undefined;
    if (take("?")) {
      if (take("=")) look = "=";
      else if (take("!")) look = "!";
      else if (take("<")) {
        if (characters[at] === "=" || characters[at] === "!") throw fail("has a lookbehind");
        const close = characters.indexOf(">", at);
        if (close < 0) throw fail("has a group whose name does not end");
        at = close + 1;
      } else if (!take(":")) throw fail("has a group of a kind that is not known");
    }
    const part = alternatives(depth + 1);
    if (!take(")")) throw fail("has a group that does not end");
    return look === undefined ? part : { kind: "look", part, not: look === "!" };
  };

  const set = (): CodePoints => {
    const negated = take("^");
    const ranges: number[] = [];
    while (!take("]")) {
      if (at >= characters.length) throw fail("has a [ that does not end");
      const from = member();
      if (characters[at] === "-" && characters[at + 1] !== "]") {
        at++;
        const to = member();
        if (
          from.length !== 2 ||
          from[0] !== from[1] ||
          to.length !== 2 ||
          to[0] !== to[1] ||
          to[0]! < from[0]!
        )
          throw fail("has a range that is none");
        ranges.push(from[0]!, to[0]!);
      } else ranges.push(...from);
    }
    return negated ? complement(union(ranges)) : union(ranges);
  };

  const member = (): CodePoints => {
    const character = characters[at++];
    if (character === undefined) throw fail("has a [ that does not end");
    if (character === "\\") return escaped(true);
    const point = character.codePointAt(0)!;
    return [point, point];
  };

  const escaped = (inSet: boolean): CodePoints => {
    const character = characters[at++];
    if (character === undefined) throw fail("ends in a backslash");
    const lower = character.toLowerCase();
    if (Object.hasOwn(classes, lower))
      return character === lower ? classes[lower]! : complement(classes[lower]!);
    let point: number | undefined = Object.hasOwn(controls, character) ? controls[character] : undefined;
    if (inSet && character === "b") point = 8;
    if (character === "x") point = hex(2);
    if (character === "u") point = unicode();
    if (point === undefined && /^[$()*+./?[\\\]^{|}-]$/.test(character)) point = character.charCodeAt(0);
    if (point === undefined) throw fail(`has \\${character}, which no automaton here can follow`);
    return [point, point];
  };

  const hex = (count: number): number => {
    const digits = characters.slice(at, at + count).join("");
    if (digits.length !== count || !/^[\da-fA-F]+$/.test(digits)) throw fail("has an escape that is cut off");
    at += count;
    return Number.parseInt(digits, 16);
  };

  const unicode = (): number => {
    if (take("{")) {
      const close = characters.indexOf("}", at);
      const point = close - at > 0 && close - at < 7 ? hex(close - at) : Number.NaN;
      at = close + 1;
      if (!(point <= 0x10ffff)) throw fail("has an escape that is no character");
      return point;
    }
    const unit = hex(4);
    if (unit < 0xd800 || unit > 0xdbff || characters[at] !== "\\" || characters[at + 1] !== "u") return unit;
    at += 2;
    return 0x10000 + ((unit & 0x3ff) << 10) + (hex(4) & 0x3ff);
  };

  const syntax = alternatives(0);
  if (at < characters.length) throw fail("has a stray )");
  return syntax;
}
