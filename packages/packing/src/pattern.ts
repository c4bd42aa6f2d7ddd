import { LowbitError } from "@lowbit/core";

/** Tries to match at `at`, then what follows. */
type Matcher = (text: string, at: number, next: (at: number) => boolean) => boolean;

const token = /\[\^?\]?(?:[^\]\\]|\\.)*\]|\\.|\(\?[:=!]|[\s\S]/y;
const quantifier = /(?:([*+?])|\{(\d{1,3})(,?)(\d{0,3})\})\??/y;
/** A name of a hundred letters takes some hundreds of steps; a pattern made to take for ever is stopped. */
const maxSteps = 100_000;
const maxLength = 500;

/**
 * Python's regular expressions, as configurations name modules by them, matched from the start of a name. Files choose pattern and name,
 * so steps are counted. Throws `file-corrupt`/invalid-config, also while matching.
 */
export function compilePattern(source: string): (name: string) => boolean {
  const wrong = (problem: string): Error =>
    new LowbitError(
      "file-corrupt",
      `The pattern ${JSON.stringify(source.slice(0, 100))} cannot be used: ${problem}.`,
      { reason: "invalid-config" },
    );
  if (source.length > maxLength) throw wrong(`it has ${source.length} characters`);
  let at = 0;
  let depth = 0;
  let steps = 0;

  function count(): void {
    if (++steps > maxSteps) throw wrong("it takes too long");
  }

  function take(what: RegExp): RegExpExecArray | undefined {
    what.lastIndex = at;
    const match = what.exec(source);
    if (match) at += match[0].length;
    return match ?? undefined;
  }

  function alternatives(): Matcher {
    if (++depth > 20) throw wrong("it nests too deeply");
    const branches = [sequence()];
    while (source[at] === "|") {
      at++;
      branches.push(sequence());
    }
    depth--;
    return (text, at, next) => branches.some((branch) => branch(text, at, next));
  }

  function sequence(): Matcher {
    const parts: Matcher[] = [];
    while (at < source.length && source[at] !== "|" && source[at] !== ")") {
      const part = atom();
      const times = take(quantifier);
      parts.push(times ? repeated(part, times) : part);
    }
    return parts.reduceRight<Matcher>(
      (rest, part) => (text, at, next) => part(text, at, (after) => rest(text, after, next)),
      (_, at, next) => next(at),
    );
  }

  function repeated(part: Matcher, [, sign, from, comma, to]: RegExpExecArray): Matcher {
    const least = sign === undefined ? Number(from) : sign === "+" ? 1 : 0;
    const most = sign === "?" ? 1 : to ? Number(to) : sign || comma ? Number.POSITIVE_INFINITY : least;
    const again =
      (text: string, done: number, next: (at: number) => boolean) =>
      (at: number): boolean => {
        count();
        const more = again(text, done + 1, next);
        const moves = (after: number): boolean => (after > at || done < least) && more(after);
        return (done < most && part(text, at, moves)) || (done >= least && next(at));
      };
    return (text, at, next) => again(text, 0, next)(at);
  }

  function atom(): Matcher {
    const text = take(token)![0];
    if (text.startsWith("(")) {
      if (text === "(" && source[at] === "?") throw wrong("a group of this kind is not known");
      const inner = alternatives();
      if (source[at++] !== ")") throw wrong("a group does not end");
      if (text === "(?=") return (text, at, next) => inner(text, at, () => true) && next(at);
      if (text === "(?!") return (text, at, next) => !inner(text, at, () => true) && next(at);
      return inner;
    }
    if (text === "^") return (_, at, next) => at === 0 && next(at);
    if (text === "$") return (text, at, next) => at === text.length && next(at);
    if (/^(?:[*+?[\\]|\\[A-Za-z0-9])$/.test(text) && !/^\\[dDsSwW]$/.test(text))
      throw wrong(`${text} is not known here`);
    const one = oneOf(text);
    return (text, at, next) => {
      count();
      return at < text.length && one.test(text[at]!) && next(at + 1);
    };
  }

  /** Of a single character: a set, an escape, a dot or a letter. */
  function oneOf(text: string): RegExp {
    // Where Python takes a bracket for itself, JavaScript wants a backslash.
    const own = text.replace(/^(\[\^?)\]/, "$1\\]").replace(/^[{}\]]$/, "\\$&");
    try {
      return new RegExp(`^${own}$`);
    } catch {
      throw wrong(`${text} is no set of characters`);
    }
  }

  const whole = alternatives();
  if (at < source.length) throw wrong("a parenthesis closes nothing");
  return (name) => {
    if (name.length > maxLength) return false;
    steps = 0;
    try {
      return whole(name, 0, () => true);
    } catch (error) {
      // Repetitions of nothing fill the stack before they take too long.
      throw error instanceof RangeError ? wrong("it nests too deeply") : error;
    }
  };
}
