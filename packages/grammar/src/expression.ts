/**
 * Regular expressions over bytes, and their derivatives: what may follow once a byte has been read. With intersection and
 * complement as plain operators, and counts that are not unrolled, an automaton is never built further than texts go.
 */

/** Interned: equal expressions are the same object, so that identity is equality and tables hang on objects. */
export interface Expression {
  readonly id: number;
  readonly kind: "nothing" | "empty" | "set" | "sequence" | "choice" | "both" | "not" | "repeat";
  readonly parts: readonly Expression[];
  /** Of a set: pairs of first and last byte, ascending, apart. */
  readonly ranges: readonly number[];
  readonly min: number;
  readonly max: number;
  /** Matches the empty text. */
  readonly nullable: boolean;
  /** Without intersection and complement: anything but `nothing` matches some text. */
  readonly plain: boolean;
  /** What follows each byte; made on first use. */
  next: readonly Expression[] | undefined;
  /** Of one that is not plain: known to match some text, or none. */
  alive: boolean | undefined;
}

export interface Expressions {
  readonly nothing: Expression;
  readonly empty: Expression;
  /** Any text of any bytes. */
  readonly anything: Expression;
  /** How many there are by now. */
  readonly size: number;
  /** Steps of derivation so far: what expressions made to be costly are stopped by. */
  readonly work: number;
  /** One byte of these ranges: first, last, first, last … */
  set(ranges: readonly number[]): Expression;
  bytes(text: Uint8Array | string): Expression;
  sequence(...parts: readonly Expression[]): Expression;
  choice(parts: readonly Expression[]): Expression;
  both(parts: readonly Expression[]): Expression;
  not(part: Expression): Expression;
  repeat(part: Expression, min: number, max: number): Expression;
  optional(part: Expression): Expression;
  /** One of these texts: their common beginnings are shared, so that thousands cost no more than their length. */
  anyOf(texts: readonly string[]): Expression;
  /** 256 expressions, one for each next byte. */
  next(expression: Expression): readonly Expression[];
}

const utf8 = new TextEncoder();
const noRanges: readonly number[] = [];

export function createExpressions(): Expressions {
  const known = new Map<string, Expression>();
  const intern = (
    kind: Expression["kind"],
    parts: readonly Expression[],
    nullable: boolean,
    ranges: readonly number[] = noRanges,
    min = 0,
    max = 0,
  ): Expression => {
    const key = `${kind}${parts.map((part) => part.id)}|${ranges}|${min},${max}`;
    const found = known.get(key);
    if (found) return found;
    const plain = kind !== "both" && kind !== "not" && parts.every((part) => part.plain);
    const made: Expression = {
      id: known.size,
      kind,
      parts,
      ranges,
      min,
      max,
      nullable,
      plain,
      next: undefined,
      alive: undefined,
    };
    known.set(key, made);
    return made;
  };

  const nothing = intern("nothing", [], false);
  const empty = intern("empty", [], true);
  const set = (ranges: readonly number[]): Expression =>
    ranges.length === 0 ? nothing : intern("set", [], false, ranges);
  const anything = intern("repeat", [set([0, 255])], true, noRanges, 0, Number.POSITIVE_INFINITY);

  const sequence = (...parts: readonly Expression[]): Expression =>
    parts.reduceRight((rest, part) => pair(part, rest), empty);
  const pair = (first: Expression, second: Expression): Expression => {
    if (first === nothing || second === nothing) return nothing;
    if (first === empty) return second;
    if (second === empty) return first;
    // To the right, so that the part that comes next is always at hand.
    if (first.kind === "sequence") return pair(first.parts[0]!, pair(first.parts[1]!, second));
    return intern("sequence", [first, second], first.nullable && second.nullable);
  };

  const choice = (parts: readonly Expression[]): Expression => {
    const all = new Set<Expression>();
    let ranges: readonly number[] = noRanges;
    const add = (part: Expression): void => {
      if (part.kind === "choice") for (const inner of part.parts) add(inner);
      else if (part.kind === "set") ranges = union([...ranges, ...part.ranges]);
      else if (part !== nothing) all.add(part);
    };
    for (const part of parts) add(part);
    if (all.has(anything)) return anything;
    if (ranges.length > 0) all.add(set(ranges));
    if ([...all].some((part) => part !== empty && part.nullable)) all.delete(empty);
    if (all.size < 2) return [...all][0] ?? nothing;
    const sorted = [...all].sort((a, b) => a.id - b.id);
    return intern(
      "choice",
      sorted,
      sorted.some((part) => part.nullable),
    );
  };

  const both = (parts: readonly Expression[]): Expression => {
    const all = new Set<Expression>();
    const add = (part: Expression): void => {
      if (part.kind === "both") for (const inner of part.parts) add(inner);
      else if (part !== anything) all.add(part);
    };
    for (const part of parts) add(part);
    if (all.has(nothing)) return nothing;
    if (all.has(empty)) return [...all].every((part) => part.nullable) ? empty : nothing;
    if (all.size < 2) return [...all][0] ?? anything;
    const sorted = [...all].sort((a, b) => a.id - b.id);
    return intern(
      "both",
      sorted,
      sorted.every((part) => part.nullable),
    );
  };

  const not = (part: Expression): Expression => {
    if (part === nothing) return anything;
    if (part === anything) return nothing;
    return part.kind === "not" ? part.parts[0]! : intern("not", [part], !part.nullable);
  };

  const repeat = (part: Expression, min: number, max: number): Expression => {
    if (max === 0 || part === empty) return empty;
    if (part === nothing) return min === 0 ? empty : nothing;
    if (min === 1 && max === 1) return part;
    const least = part.nullable ? 0 : min;
    return intern("repeat", [part], least === 0, noRanges, least, max);
  };

  let work = 0;
  const derive = (of: Expression, byte: number): Expression => {
    const { parts } = of;
    work++;
    switch (of.kind) {
      case "set":
        return within(of.ranges, byte) ? empty : nothing;
      case "sequence": {
        const [first, second] = parts as readonly [Expression, Expression];
        const rest = pair(after(first, byte), second);
        return first.nullable ? choice([rest, after(second, byte)]) : rest;
      }
      case "choice":
        return choice(parts.map((part) => after(part, byte)));
      case "both":
        return both(parts.map((part) => after(part, byte)));
      case "not":
        return not(after(parts[0]!, byte));
      case "repeat":
        return pair(after(parts[0]!, byte), repeat(parts[0]!, Math.max(0, of.min - 1), of.max - 1));
      default:
        return nothing;
    }
  };
  // Parts of an expression often have their tables already.
  const after = (of: Expression, byte: number): Expression => of.next?.[byte] ?? derive(of, byte);

  const next = (of: Expression): readonly Expression[] => {
    if (of.next) return of.next;
    const starts = new Uint8Array(257);
    markBorders(of, starts);
    const table: Expression[] = [];
    for (let byte = 0; byte < 256; byte++) {
      table.push(byte > 0 && starts[byte] === 0 ? table[byte - 1]! : derive(of, byte));
    }
    of.next = table;
    return table;
  };

  const bytes = (text: Uint8Array | string): Expression => {
    const all = typeof text === "string" ? utf8.encode(text) : text;
    return sequence(...Array.from(all, (byte) => set([byte, byte])));
  };

  const anyOf = (texts: readonly string[]): Expression => {
    const sorted = texts.map((text) => Array.from(utf8.encode(text), (byte) => byte)).sort(compareBytes);
    const branch = (from: number, to: number, depth: number): Expression => {
      const [first, last] = [sorted[from] ?? [], sorted[to - 1] ?? []];
      let shared = depth;
      while (shared < first.length && first[shared] === last[shared]) shared++;
      const found: Expression[] = [];
      let at = from;
      for (; at < to && sorted[at]!.length === shared; at++) found.push(empty);
      while (at < to) {
        const byte = sorted[at]![shared]!;
        let end = at + 1;
        while (end < to && sorted[end]![shared] === byte) end++;
        found.push(pair(set([byte, byte]), branch(at, end, shared + 1)));
        at = end;
      }
      return sequence(...first.slice(depth, shared).map((byte) => set([byte, byte])), choice(found));
    };
    return branch(0, sorted.length, 0);
  };

  return {
    nothing,
    empty,
    anything,
    get size() {
      return known.size;
    },
    get work() {
      return work;
    },
    set: (ranges) => set(union(ranges)),
    bytes,
    sequence,
    choice,
    both,
    not,
    repeat,
    optional: (part) => choice([part, empty]),
    anyOf,
    next,
  };
}

function compareBytes(a: readonly number[], b: readonly number[]): number {
  const shared = Math.min(a.length, b.length);
  for (let i = 0; i < shared; i++) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return a.length - b.length;
}

function within(ranges: readonly number[], byte: number): boolean {
  for (let i = 0; i < ranges.length; i += 2) {
    if (byte >= ranges[i]! && byte <= ranges[i + 1]!) return true;
  }
  return false;
}

/** Marks the bytes at which what follows may change: between two marks all bytes lead to the same expression. */
function markBorders(of: Expression, starts: Uint8Array): void {
  for (let i = 0; i < of.ranges.length; i += 2) {
    starts[of.ranges[i]!] = 1;
    starts[of.ranges[i + 1]! + 1] = 1;
  }
  const [first, second] = of.parts;
  if (of.kind !== "sequence") for (const part of of.parts) markBorders(part, starts);
  else {
    markBorders(first!, starts);
    if (first!.nullable) markBorders(second!, starts);
  }
}

/** Ranges sorted, joined where they touch. */
export function union(ranges: readonly number[]): number[] {
  const pairs: [number, number][] = [];
  for (let i = 0; i < ranges.length; i += 2) pairs.push([ranges[i]!, ranges[i + 1]!]);
  pairs.sort((a, b) => a[0] - b[0]);
  const joined: number[] = [];
  for (const [from, to] of pairs) {
    const last = joined.length - 1;
    if (last > 0 && from <= joined[last]! + 1) joined[last] = Math.max(joined[last]!, to);
    else joined.push(from, to);
  }
  return joined;
}
