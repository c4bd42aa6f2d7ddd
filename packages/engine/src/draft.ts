import { LowbitError, type ModelConfig, type Tokenizer } from "@lowbit/core";
import type { Guesser } from "./guesser.ts";
import type { Sequence } from "./kv-cache.ts";
import type { Model } from "./model.ts";
import { partsOf } from "./model-parts.ts";
import type { Runner } from "./runner.ts";

/** What a draft whose context is full keeps of the beginning, which models lean on. */
const keptTokens = 4;

/**
 * Speculative decoding (Leviathan et al. 2023; Chen et al. 2023): a smaller model writes on greedily. Its text lies in its own cache, where
 * wrong guesses are taken out again before the next, and its passes are shared with whatever else it does.
 *
 * A text longer than the draft's context goes on from its latest half: guesses need not be right.
 */
export function createDraft(
  runner: Runner,
  prompt: readonly number[],
  signal: AbortSignal | undefined,
): Guesser {
  const { cache } = runner;
  const { contextLength } = runner.plan;
  let text = [...prompt];
  let sequence: Sequence | undefined;
  /** Length of `text` at the last guess, and the guesses of then that are in the sequence. */
  let sure = 0;
  let ahead: readonly number[] = [];

  const step = async (sequence: Sequence, tokens: readonly number[]): Promise<number> => {
    try {
      return likeliest(await runner.step(sequence, tokens, [tokens.length - 1], "logits", signal));
    } catch (error) {
      throw runner.disposed ? gone(error) : error;
    }
  };

  const release = (): void => {
    if (sequence !== undefined && !runner.disposed) cache.retire(sequence);
    sequence = undefined;
    ahead = [];
  };

  /** Makes room for `most` guesses, of which the last needs none. */
  const fit = (most: number): void => {
    if (text.length + most - 1 <= contextLength) return;
    release();
    const kept = Math.min(keptTokens, contextLength >> 2);
    text = [...text.slice(0, kept), ...text.slice(-Math.max(1, (contextLength >> 1) - kept))];
  };

  return {
    push(token) {
      text.push(token);
    },
    async guess(most) {
      fit(most);
      const room = Math.min(most, contextLength - text.length + 1);
      if (room < 1) return [];
      if (sequence === undefined) sequence = cache.begin(text);
      else if (runner.disposed) throw gone();
      else {
        // The last token is always computed: its logits are wanted.
        const fresh = text.slice(sure, -1);
        let right = 0;
        while (right < ahead.length && ahead[right] === fresh[right]) right++;
        cache.settle(sequence, ahead.length - right);
      }
      const own = sequence;
      const guesses = [await step(own, text.slice(own.tokens.length + own.lost.length))];
      cache.guess(own, 0);
      while (guesses.length < room) guesses.push(await step(own, guesses.slice(-1)));
      sure = text.length;
      ahead = guesses.slice(0, -1);
      return guesses;
    },
    close: release,
  };
}

function likeliest(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id;
  return best;
}

function gone(cause?: unknown): LowbitError {
  return new LowbitError("bad-argument", "The draft model has been disposed.", {
    reason: "draft-disposed",
    hint: "Dispose it after the model that was loaded with it; guessTokens: 0 goes on without it.",
    cause,
  });
}

/** The runner of a draft for this model. Throws `bad-argument` if the two do not go together. */
export function draftOf(draft: Model, config: ModelConfig, tokenizer: Tokenizer | undefined): Runner {
  const parts = partsOf(draft);
  if (parts === undefined) {
    throw refusal("it was not loaded by this copy of lowbit", "Load both models with the same package.");
  }
  if (parts.runner.disposed) throw refusal("it has been disposed", "Load it again.");
  const other = parts.runner.config;
  if (config.causal === false || other.causal === false) {
    throw refusal("encoders do not write text", "Leave it out.");
  }
  const sameModels = "Take a smaller model of the same family, whose tokens have the same ids.";
  if (other.vocabularySize !== config.vocabularySize) {
    const sizes = `it has ${other.vocabularySize} tokens, the model ${config.vocabularySize}`;
    throw refusal(sizes, sameModels);
  }
  if (tokenizer !== undefined && parts.tokenizer !== undefined) {
    for (let id = 0; id < config.vocabularySize; id++) {
      const [mine, its] = [tokenizer.token(id), parts.tokenizer.token(id)];
      if (mine === its) continue;
      const [a, b] = [its, mine].map((token) => (token === undefined ? "none" : JSON.stringify(token)));
      throw refusal(`its token ${id} is ${a}, the model's ${b}`, sameModels);
    }
  }
  return parts.runner;
}

function refusal(why: string, hint: string): LowbitError {
  return new LowbitError("bad-argument", `load: this draft cannot guess for the model: ${why}.`, {
    reason: "draft",
    hint,
  });
}
