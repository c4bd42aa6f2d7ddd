import type { Expression, Expressions } from "./expression.ts";
import type { Machine, Rest, State } from "./machine.ts";
import { add, createReaches, pack, type Reach, type TokenSet } from "./reach.ts";
import type { TokenTree } from "./vocabulary.ts";

export interface Masks {
  /** Tokens that may come next, of those that have bytes; special tokens are the state's own. */
  allowed(machine: Machine, state: State): TokenSet;
}

/** Sets that are kept: 3 MB at 150,000 tokens, if all are large. */
const keptStates = 32;
const keptTexts = 128;

/**
 * Most of a vocabulary is settled by the text at hand alone, so that is computed once for each text and kept over all grammars of a
 * model; only tokens that reach beyond the end of the text are walked for each state.
 */
export function createMasks(tree: TokenTree, expressions: Expressions): Masks {
  const reachOf = createReaches(tree, expressions);
  const reaches = new Map<Expression, Reach>();
  const clamped = new WeakMap<Expression, Expression>();
  const states = new Map<State, TokenSet>();

  /** Counts beyond the longest token are all alike to a mask; only plain expressions may lose the exact ones. */
  const clamp = (of: Expression): Expression => {
    const known = clamped.get(of);
    if (known) return known;
    const parts = of.parts.map(clamp);
    const cut = (count: number): number =>
      count > tree.longest && count < Number.POSITIVE_INFINITY ? tree.longest + 1 : count;
    let result = of;
    if (of.kind === "repeat") result = expressions.repeat(parts[0]!, cut(of.min), cut(of.max));
    else if (of.kind === "sequence") result = expressions.sequence(...parts);
    else if (of.kind === "choice") result = expressions.choice(parts);
    clamped.set(of, result);
    return result;
  };

  const reach = (of: Expression): Reach => {
    const text = of.plain ? clamp(of) : of;
    return kept(reaches, text, keptTexts, () => reachOf(text));
  };

  const walkRest = (machine: Machine, exits: Int32Array, rest: Rest, bits: Uint32Array): void => {
    const start = machine.enter([rest]);
    if (start.configurations.length === 0) return;
    const { byte, depth, end, token, twin } = tree;
    const path: State[] = [start];
    for (const exit of exits) {
      const base = depth[exit]! + 1;
      for (let node = exit + 1; node < end[exit]!; ) {
        const level = depth[node]! - base;
        const after = machine.step(path[level]!, byte[node]!);
        if (after === undefined) {
          node = end[node]!;
          continue;
        }
        for (let id = token[node]!; id >= 0; id = twin[id]!) bits[id >>> 5]! |= 1 << (id & 31);
        path[level + 1] = after;
        node++;
      }
    }
  };

  return {
    allowed(machine, state) {
      return kept(states, state, keptStates, () => {
        const bits = new Uint32Array((tree.tokenCount + 31) >>> 5);
        for (const { expression, rest } of state.configurations) {
          const { inside, exits } = reach(expression);
          add(inside, bits);
          walkRest(machine, exits, rest, bits);
        }
        return pack(bits);
      });
    },
  };
}

/** From the map, or made; those used last stay. */
function kept<Key, Value>(map: Map<Key, Value>, key: Key, most: number, make: () => Value): Value {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    if (map.size >= most) map.delete(map.keys().next().value as Key);
  } else map.delete(key);
  map.set(key, value);
  return value;
}
