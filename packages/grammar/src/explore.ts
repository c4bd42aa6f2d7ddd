import type { Expression, Expressions } from "./expression.ts";

/** States of one expression's automaton; enough for every format, for patterns in use and their limits of length. */
const maxStates = 8000;
const maxWork = 300_000;
/** Alternatives that one state carries along: more means a pattern made to be costly. */
const maxParts = 400;

/**
 * Goes through all states of an expression, and cuts off those from which no text ends: an intersection can lead into one.
 * False if there are too many. Afterwards `expression.alive` is known.
 */
export function explore(expressions: Expressions, start: Expression): boolean {
  const { nothing } = expressions;
  const enough = expressions.work + maxWork;
  const states: Expression[] = [start];
  const index = new Map<Expression, number>([[start, 0]]);
  const before: number[][] = [[]];
  for (let at = 0; at < states.length; at++) {
    if (expressions.work > enough) return false;
    let last: Expression | undefined;
    for (const to of expressions.next(states[at]!)) {
      if (to === last || to === nothing) continue;
      last = to;
      let found = index.get(to);
      if (found === undefined) {
        if (states.length >= maxStates || to.parts.length > maxParts) return false;
        found = states.push(to) - 1;
        index.set(to, found);
        before.push([]);
      }
      before[found]!.push(at);
    }
  }
  const alive = new Uint8Array(states.length);
  const queue = [...states.keys()].filter((at) => states[at]!.nullable);
  for (const at of queue) alive[at] = 1;
  for (let at = queue.pop(); at !== undefined; at = queue.pop()) {
    for (const from of before[at]!) {
      if (alive[from] === 1) continue;
      alive[from] = 1;
      queue.push(from);
    }
  }
  for (const [at, state] of states.entries()) state.alive = alive[at] === 1;
  for (const state of states) {
    if (!state.plain) state.next = expressions.next(state).map((to) => (to.alive === false ? nothing : to));
  }
  return true;
}
