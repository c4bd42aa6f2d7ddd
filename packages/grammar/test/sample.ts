import type { TokenConstraint, Tokenizer } from "@lowbit/core";

export interface Sample {
  readonly ids: readonly number[];
  readonly text: string;
  /** The constraint let the text end; otherwise it was cut off. */
  readonly ended: boolean;
}

/**
 * A text at random under a constraint: any allowed token at first, then, so that it ends, those that close something. Throws if a
 * token of the mask is not accepted, or if nothing is allowed.
 */
export function sample(
  constraint: TokenConstraint,
  tokenizer: Tokenizer,
  random: () => number,
  { wild = 40, most = 2000 }: { wild?: number; most?: number } = {},
): Sample {
  const end = [...tokenizer.endTokens][0]!;
  const ids: number[] = [];
  const below = (limit: number): number => Math.floor(random() * limit);
  while (ids.length < most && !constraint.done) {
    const logits = new Float32Array(tokenizer.vocabularySize);
    constraint.mask(logits);
    const allowed: number[] = [];
    for (const [id, logit] of logits.entries()) if (logit === 0) allowed.push(id);
    if (allowed.length === 0) throw new Error("nothing is allowed");
    if (constraint.complete !== (logits[end] === 0))
      throw new Error("the end token is not where the text may end");
    const late = ids.length > wild;
    if (constraint.complete && (late || random() < 0.2)) return finish(true);
    // What must come before the end, as the @ of an address, comes by chance.
    const byte = late && random() < 0.4;
    const closing =
      late || random() < 0.15
        ? allowed.filter((id) =>
            byte ? tokenizer.bytes(id).length === 1 : closes(tokenizer.bytes(id), late),
          )
        : [];
    const from = closing.length > 0 ? closing : allowed.filter((id) => !tokenizer.endTokens.has(id));
    const id = from[below(from.length)];
    if (id === undefined) return finish(constraint.complete);
    if (!constraint.accept(id)) throw new Error(`token ${id} is in the mask, but not accepted`);
    ids.push(id);
  }
  return finish(constraint.complete);

  function finish(ended: boolean): Sample {
    return { ids, text: tokenizer.decode(ids), ended };
  }
}

/** Tokens of closing characters alone; late, those that open nothing. */
function closes(bytes: Uint8Array, late: boolean): boolean {
  if (bytes.length === 0) return false;
  const text = String.fromCharCode(...bytes);
  return late ? /^["\]}0]+$/.test(text) : /^["\]},:]+/.test(text);
}
