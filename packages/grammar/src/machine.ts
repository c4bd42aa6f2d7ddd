import { LowbitError } from "@lowbit/core";
import type { Expression, Expressions } from "./expression.ts";

/** A rule's body as a graph: texts, calls of other rules, and choices. */
export interface Node {
  readonly id: number;
  readonly kind: "end" | "text" | "token" | "call" | "branch";
  /** Of a text. */
  readonly expression: Expression | undefined;
  /** Id of a special token, which has no bytes. */
  readonly token: number;
  readonly rule: Rule | undefined;
  /** What follows; of a branch, the alternatives. Filled in later where a graph has a loop. */
  readonly next: Node[];
  /** How many calls deep one must go to get from here to the end of the rule; infinite where nobody arrives. */
  need: number;
}

export interface Rule {
  /** Set once what it calls is known. */
  body: Node | undefined;
}

export interface Nodes {
  readonly end: Node;
  readonly count: number;
  text(expression: Expression, next: Node): Node;
  token(id: number, next: Node): Node;
  call(rule: Rule, next: Node): Node;
  branch(nodes: Node[]): Node;
}

const maxNodes = 100_000;
/** Calls inside one another: nesting of the JSON text. */
const maxDepth = 64;
/** Ways to read what has been written so far that are followed at the same time. */
const maxConfigurations = 5000;

export function createNodes(): Nodes {
  let count = 0;
  const make = (kind: Node["kind"], next: Node[], more: Partial<Node> = {}): Node => {
    if (++count > maxNodes) throw tooComplex(`it has more than ${maxNodes} parts`);
    return {
      id: count,
      kind,
      expression: undefined,
      token: -1,
      rule: undefined,
      next,
      need: Number.POSITIVE_INFINITY,
      ...more,
    };
  };
  return {
    end: make("end", [], { need: 0 }),
    get count() {
      return count;
    },
    text: (expression, next) => make("text", [next], { expression }),
    token: (token, next) => make("token", [next], { token }),
    call: (rule, next) => make("call", [next], { rule }),
    branch: (next) => make("branch", next),
  };
}

/** Fills in `need` of all nodes that can be reached. */
export function measure(root: Node, expressions: Expressions): void {
  const order: Node[] = [];
  const seen = new Set<Node>([root]);
  const open: Node[] = [root];
  for (let node = open.pop(); node; node = open.pop()) {
    order.push(node);
    for (const to of node.rule?.body ? [...node.next, node.rule.body] : node.next) {
      if (seen.has(to)) continue;
      seen.add(to);
      open.push(to);
    }
  }
  order.reverse();
  for (let changed = true; changed; ) {
    changed = false;
    for (const node of order) {
      const need = needOf(node, expressions);
      if (need >= node.need) continue;
      node.need = need;
      changed = true;
    }
  }
}

function needOf({ kind, next, rule, expression }: Node, { nothing }: Expressions): number {
  const after = next.reduce((least, node) => Math.min(least, node.need), Number.POSITIVE_INFINITY);
  if (kind === "end") return 0;
  if (kind === "call") return Math.max(after, 1 + (rule?.body?.need ?? Number.POSITIVE_INFINITY));
  return expression === nothing || expression?.alive === false ? Number.POSITIVE_INFINITY : after;
}

/** What is still to come when a text or a rule has ended. Interned. */
export interface Rest {
  readonly id: number;
  readonly node: Node;
  readonly below: Rest | undefined;
  /** Calls that are open. */
  readonly depth: number;
}

export interface Configuration {
  /** What may follow of the text at hand. */
  readonly expression: Expression;
  readonly rest: Rest;
}

/** All ways to read what has been written. Interned, so that tables hang on it. */
export interface State {
  readonly id: number;
  readonly configurations: readonly Configuration[];
  /** Special tokens that may come next, and what follows them. */
  readonly tokens: ReadonlyMap<number, readonly Rest[]>;
  /** The whole text may end here. */
  readonly complete: boolean;
  /** By byte; null where it cannot come, absent where nobody asked. */
  readonly next: (State | null)[];
}

/** A pushdown automaton whose states are made as texts reach them. */
export interface Machine {
  readonly start: State;
  /** How many states there are by now. */
  readonly size: number;
  /** After a byte; undefined if it cannot come. */
  step(state: State, byte: number): State | undefined;
  /** After a special token. */
  stepToken(state: State, token: number): State | undefined;
  /** Where one stands when a text has ended and the rest begins. */
  enter(rests: readonly Rest[]): State;
}

export function createMachine(root: Node, expressions: Expressions): Machine {
  const { nothing, empty, next } = expressions;
  const states = new Map<string, State>();
  const rests = new Map<string, Rest>();
  const entered = new Map<string, State>();

  const restOf = (node: Node, below: Rest | undefined, depth: number): Rest => {
    const key = `${node.id},${below?.id ?? 0}`;
    let rest = rests.get(key);
    if (rest === undefined) {
      rest = { id: rests.size + 1, node, below, depth };
      rests.set(key, rest);
    }
    return rest;
  };

  const collect = (): {
    add(expression: Expression, rest: Rest): void;
    open(node: Node, below: Rest | undefined): void;
    state(): State;
  } => {
    const configurations = new Map<string, Configuration>();
    const tokens = new Map<number, Rest[]>();
    const seen = new Set<string>();
    let complete = false;
    const add = (expression: Expression, rest: Rest): void => {
      if (expression.nullable) open(rest.node, rest.below);
      if (expression === empty) return;
      configurations.set(`${expression.id},${rest.id}`, { expression, rest });
      if (configurations.size > maxConfigurations)
        throw tooComplex("it can be read in too many ways at once");
    };
    const open = (node: Node, below: Rest | undefined): void => {
      const depth = below?.depth ?? 0;
      if (depth + node.need > maxDepth) return;
      if (node.kind === "end") {
        if (below === undefined) complete = true;
        else open(below.node, below.below);
        return;
      }
      const key = `${node.id},${below?.id ?? 0}`;
      if (seen.has(key)) return;
      seen.add(key);
      const after = node.next[0]!;
      if (node.kind === "branch") for (const to of node.next) open(to, below);
      else if (node.kind === "call") open(node.rule!.body!, restOf(after, below, depth + 1));
      else if (node.kind === "text") add(node.expression!, restOf(after, below, depth));
      else tokens.set(node.token, [...(tokens.get(node.token) ?? []), restOf(after, below, depth)]);
    };
    return {
      add,
      open,
      state() {
        const shown = [...configurations.keys()].sort().join(";");
        const special = [...tokens].map(([token, after]) => `${token}:${after.map(({ id }) => id)}`).sort();
        const key = `${shown}|${special}|${complete}`;
        let state = states.get(key);
        if (state === undefined) {
          state = {
            id: states.size,
            configurations: [...configurations.values()],
            tokens,
            complete,
            next: [],
          };
          states.set(key, state);
        }
        return state;
      },
    };
  };

  const step = (state: State, byte: number): State | undefined => {
    const known = state.next[byte];
    if (known !== undefined) return known ?? undefined;
    const found = collect();
    for (const { expression, rest } of state.configurations) {
      const after = next(expression)[byte]!;
      if (after !== nothing) found.add(after, rest);
    }
    const to = found.state();
    state.next[byte] = isDead(to) ? null : to;
    return state.next[byte] ?? undefined;
  };

  const enter = (from: readonly Rest[]): State => {
    const key = from.map(({ id }) => id).join();
    let state = entered.get(key);
    if (state === undefined) {
      const found = collect();
      for (const rest of from) found.open(rest.node, rest.below);
      state = found.state();
      entered.set(key, state);
    }
    return state;
  };

  const first = collect();
  first.open(root, undefined);
  return {
    start: first.state(),
    get size() {
      return states.size + rests.size;
    },
    step,
    stepToken(state, token) {
      const after = state.tokens.get(token);
      return after && enter(after);
    },
    enter,
  };
}

function isDead({ configurations, tokens, complete }: State): boolean {
  return configurations.length === 0 && tokens.size === 0 && !complete;
}

function tooComplex(problem: string): LowbitError {
  return new LowbitError("bad-argument", `The schema cannot be kept to: ${problem}.`, {
    reason: "schema",
    plugin: "grammar",
    hint: "Simplify the schema, or split it.",
  });
}
