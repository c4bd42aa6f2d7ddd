import { LowbitError } from "@lowbit/core";
import type { Sequence } from "./kv-cache.ts";
import { type GenerateSettings, wrongValue } from "./options.ts";
import type { Runner } from "./runner.ts";

/** What becomes of a text that reaches the end of its context. */
export interface Overflow {
  /** Most tokens that may be written behind a prompt. */
  readonly most: number;
  /** Makes room in a full context for one more token, and says how many there is room for. */
  room(sequence: Sequence): number;
}

/** Tokens that a shift keeps where the request doesn't say: models put much of their attention on the first few, whatever they are. */
const keptTokens = 4;

/** Throws `bad-argument` for a model that cannot shift, or where nothing would be left to forget. */
export function createOverflow(
  runner: Runner,
  settings: Pick<GenerateSettings, "maxTokens" | "contextOverflow" | "keepTokens">,
  promptTokens: number,
): Overflow {
  const { contextLength } = runner.plan;
  const { maxTokens, contextOverflow, keepTokens } = settings;
  const room = ({ tokens, lost }: Sequence): number => contextLength - tokens.length - lost.length;
  if (contextOverflow === "stop") {
    return { most: Math.min(maxTokens, contextLength - promptTokens + 1), room };
  }
  if (!runner.canShift) {
    throw new LowbitError(
      "bad-argument",
      `generate: contextOverflow is "shift", but in ${runner.config.architecture} positions are more than a rotation of keys.`,
      { reason: "no-shift", hint: "Leave it out, and load the model with a larger contextLength." },
    );
  }
  const keep = keepTokens ?? Math.min(keptTokens, contextLength >> 1);
  if (keep > contextLength - 2 && keep > 0) {
    throw wrongValue(
      "generate",
      "keepTokens",
      keep,
      `at most ${Math.max(0, contextLength - 2)}, 2 less than the context`,
    );
  }
  return {
    most: maxTokens,
    room(sequence) {
      const left = room(sequence);
      if (left > 0) return left;
      runner.cache.shift(sequence, keep, Math.max(1, (contextLength - keep) >> 1));
      return room(sequence);
    },
  };
}
