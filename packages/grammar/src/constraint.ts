import { LowbitError, type TokenConstraint, type Tokenizer } from "@lowbit/core";
import type { Machine, State } from "./machine.ts";
import type { Masks } from "./masks.ts";
import type { TokenSet } from "./reach.ts";

export interface ConstraintParts {
  readonly machine: Machine;
  readonly masks: Masks;
  readonly tokenizer: Tokenizer;
  readonly free: FreeText | undefined;
}

/** Text before a token at which the grammar begins. */
export interface FreeText {
  readonly until: number;
  /** calls: the token is the first of the grammar, after which text is free again, and may end. reasoning: it is the last free one. */
  readonly kind: "reasoning" | "calls";
}

export function createConstraint({ machine, masks, tokenizer, free }: ConstraintParts): TokenConstraint {
  let state = machine.start;
  let isFree = free !== undefined;
  const mayEnd = free?.kind === "calls";
  const { endTokens } = tokenizer;
  const isDone = (): boolean =>
    state.complete && state.configurations.length === 0 && state.tokens.size === 0;

  const follow = (id: number): State | undefined => {
    const special = machine.stepToken(state, id);
    if (special) return special;
    if (endTokens.has(id) || tokenizer.isSpecial(id) || tokenizer.token(id) === undefined) return undefined;
    const bytes = tokenizer.bytes(id);
    if (bytes.length === 0) return undefined;
    let at: State | undefined = state;
    for (const byte of bytes) {
      at = machine.step(at, byte);
      if (at === undefined) return undefined;
    }
    return at;
  };

  return {
    mask(logits) {
      if (isFree) {
        if (!mayEnd)
          for (const id of endTokens) if (id < logits.length) logits[id] = Number.NEGATIVE_INFINITY;
        return;
      }
      const own = [...state.tokens.keys(), ...(state.complete ? endTokens : [])].filter(
        (id) => id < logits.length,
      );
      const kept = own.map((id) => logits[id]!);
      const set = masks.allowed(machine, state);
      if (own.length === 0 && set.kind === "ids" && set.ids.length === 0) throw stuck();
      apply(set, logits);
      for (const [i, id] of own.entries()) logits[id] = kept[i]!;
    },
    accept(id) {
      if (isFree) {
        if (id !== free?.until) return !endTokens.has(id);
        [isFree, state] = [false, machine.start];
        if (free.kind === "reasoning") return true;
      }
      const next = follow(id);
      if (next === undefined) return false;
      state = next;
      // After a call of the model's own choice anything may follow.
      if (mayEnd && isDone()) isFree = true;
      return true;
    },
    get complete() {
      return isFree ? mayEnd : state.complete;
    },
    get done() {
      return !isFree && isDone();
    },
  };
}

function apply(set: TokenSet, logits: Float32Array): void {
  if (set.kind === "ids") {
    const kept = Float32Array.from(set.ids, (id) => logits[id] ?? Number.NEGATIVE_INFINITY);
    logits.fill(Number.NEGATIVE_INFINITY);
    for (let i = 0; i < kept.length; i++) logits[set.ids[i]!] = kept[i]!;
    return;
  }
  const { bits } = set;
  for (let id = 0; id < logits.length; id++) {
    if ((bits[id >>> 5]! & (1 << (id & 31))) === 0) logits[id] = Number.NEGATIVE_INFINITY;
  }
}

function stuck(): LowbitError {
  return new LowbitError("bad-argument", "No token of the vocabulary can write what the schema wants next.", {
    reason: "vocabulary",
    plugin: "grammar",
    hint: "The vocabulary lacks characters that the schema names; leave them out of its names and values.",
  });
}
