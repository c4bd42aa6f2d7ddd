import type { Expression, Expressions } from "./expression.ts";
import type { TokenTree } from "./vocabulary.ts";

/** Tokens: their ids if they are few, else a bit for each id. */
export type TokenSet =
  | { readonly kind: "ids"; readonly ids: Int32Array }
  | { readonly kind: "bits"; readonly bits: Uint32Array };

/** What the tokens of a vocabulary do to one text of a grammar, whatever comes after it. */
export interface Reach {
  /** Tokens that stay inside the text. */
  readonly inside: TokenSet;
  /** Nodes of the tree at which the text may end while tokens go on. */
  readonly exits: Int32Array;
}

/** What tokens do to a repetition without limits: those of any limits follow without another walk. */
interface Counted {
  /** By token: 1 more than the repetitions that it begins, 0 where it cannot come. */
  readonly begun: Uint16Array;
  /** By token: it goes on beyond the repetition. */
  readonly closed: Uint8Array;
  readonly exits: readonly number[];
  readonly exitCounts: readonly number[];
}

/** States of one repetition that are looked at before it is taken for one that cannot be counted. */
const maxPartStates = 64;

export function createReaches(tree: TokenTree, expressions: Expressions): (text: Expression) => Reach {
  const { nothing, empty, next } = expressions;
  const { byte, depth, end, token, twin } = tree;
  const scratch = new Uint32Array((tree.tokenCount + 31) >>> 5);
  const counted = new Map<Expression, Counted>();
  const countable = new Map<Expression, boolean>();

  /** Calls back at each node that leads to a beginning of the text, with what may follow there. */
  const walk = (start: Expression, visit: (node: number, after: Expression) => void): void => {
    const path: (readonly Expression[])[] = [next(start)];
    for (let node = 0; node < byte.length; ) {
      const level = depth[node]!;
      const after = path[level]![byte[node]!]!;
      if (after === nothing) {
        node = end[node]!;
        continue;
      }
      visit(node, after);
      const below = node + 1;
      if (after === empty) node = end[node]!;
      else {
        if (below < end[node]!) path[level + 1] = after.next ?? next(after);
        node = below;
      }
    }
  };

  const walkOnce = (start: Expression): Reach => {
    const bits = scratch.fill(0);
    const exits: number[] = [];
    walk(start, (node, after) => {
      for (let id = token[node]!; id >= 0; id = twin[id]!) bits[id >>> 5]! |= 1 << (id & 31);
      if (after.nullable && node + 1 < end[node]!) exits.push(node);
    });
    return { inside: pack(bits), exits: Int32Array.from(exits) };
  };

  const count = (endless: Expression): Counted => {
    const begun = new Uint16Array(tree.tokenCount);
    const closed = new Uint8Array(tree.tokenCount);
    const exits: number[] = [];
    const exitCounts: number[] = [];
    /** Whole repetitions by depth. */
    const whole: number[] = [0];
    walk(endless, (node, after) => {
      const repetitions = whole[depth[node]!]! + (after === endless ? 1 : 0);
      whole[depth[node]! + 1] = repetitions;
      const inside = endsIn(after, endless);
      const started = repetitions + (inside && after !== endless ? 1 : 0);
      for (let id = token[node]!; id >= 0; id = twin[id]!) {
        begun[id] = started + 1;
        closed[id] = inside ? 0 : 1;
      }
      if (after.nullable && node + 1 < end[node]!) {
        exits.push(node);
        exitCounts.push(repetitions);
      }
    });
    return { begun, closed, exits, exitCounts };
  };

  const within = ({ begun, closed, exits, exitCounts }: Counted, min: number, max: number): Reach => {
    const bits = scratch.fill(0);
    for (let id = 0; id < begun.length; id++) {
      const repetitions = begun[id]! - 1;
      if (repetitions < 0 || repetitions > max || (closed[id] === 1 && repetitions < min)) continue;
      bits[id >>> 5]! |= 1 << (id & 31);
    }
    const left = exits.filter((_, i) => exitCounts[i]! >= min && exitCounts[i]! <= max);
    return { inside: pack(bits), exits: Int32Array.from(left) };
  };

  /** Can one say of any bytes how often they repeat the part? No repetition goes on in two ways, or is the start of what follows. */
  const isCountable = (part: Expression, rest: Expression): boolean => {
    if (part.nullable || rest.nullable) return false;
    const states = new Set([part]);
    for (const state of states) {
      if (state.nullable && state !== empty) return false;
      for (const after of next(state)) if (after !== nothing) states.add(after);
      if (states.size > maxPartStates) return false;
    }
    const follows = next(rest);
    return next(part).every((after, at) => after === nothing || follows[at] === nothing);
  };

  return (text) => {
    const [body, rest] = text.kind === "sequence" ? text.parts : [];
    if (body?.kind !== "repeat" || rest === undefined) return walkOnce(text);
    const part = body.parts[0]!;
    const endless = expressions.sequence(expressions.repeat(part, 0, Number.POSITIVE_INFINITY), rest);
    let can = countable.get(endless);
    if (can === undefined) {
      can = isCountable(part, rest);
      countable.set(endless, can);
    }
    if (!can) return walkOnce(text);
    let found = counted.get(endless);
    if (found === undefined) {
      found = count(endless);
      counted.set(endless, found);
    }
    return within(found, body.min, body.max);
  };
}

/** Is it the other expression, or a sequence that ends in it? */
function endsIn(of: Expression, last: Expression): boolean {
  for (let at: Expression | undefined = of; at; at = at.kind === "sequence" ? at.parts[1] : undefined) {
    if (at === last) return true;
  }
  return false;
}

export function add(set: TokenSet, bits: Uint32Array): void {
  if (set.kind === "ids") for (const id of set.ids) bits[id >>> 5]! |= 1 << (id & 31);
  else for (let i = 0; i < bits.length; i++) bits[i]! |= set.bits[i]!;
}

/** A copy in the smaller form. */
export function pack(bits: Uint32Array): TokenSet {
  const ids: number[] = [];
  for (let word = 0; word < bits.length; word++) {
    for (let rest = bits[word]!; rest !== 0; rest &= rest - 1) {
      if (ids.length === bits.length) return { kind: "bits", bits: bits.slice() };
      ids.push((word << 5) + 31 - Math.clz32(rest & -rest));
    }
  }
  return { kind: "ids", ids: Int32Array.from(ids) };
}
