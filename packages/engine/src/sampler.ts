import { LowbitError, type SamplingOptions, type TokenConstraint, type TokenLogprob } from "@lowbit/core";
import {
  allCandidates,
  atLeast,
  type Candidates,
  largest,
  maximum,
  nucleus,
  probabilities,
  typical,
} from "./candidates.ts";
import { createRandom } from "./random.ts";

export type SamplingSettings = Required<SamplingOptions>;

export interface Pick {
  readonly id: number;
  /** Natural log of the probability that the model itself gave it: before bias, penalties and temperature. */
  readonly logprob: number | undefined;
  /** The likeliest tokens by the same measure, best first, if they were asked for. */
  readonly top?: readonly TokenLogprob[];
}

/** Chooses tokens for one generation and remembers them for the penalties. */
export interface Sampler {
  /** `logits` has one row and is changed. Throws `internal`/`non-finite-logits` rather than choose from garbage. */
  pick(logits: Float32Array): Pick;
}

/**
 * A constraint comes first; then the steps and their order are llama.cpp's: logit bias, penalties, top-k, typical, top-p, min-p, temperature, draw.
 * Penalties look at the prompt too. Temperature 0 takes the best token after bias and penalties, ties to the lower id.
 */
export function createSampler(
  settings: SamplingSettings,
  prompt: readonly number[],
  options: { logprobs?: boolean; topLogprobs?: number; constraint?: TokenConstraint } = {},
): Sampler {
  const random = createRandom(settings.seed);
  const recent = createRecent(settings.penaltyWindow, prompt);
  return {
    pick(logits) {
      checkFinite(logits);
      const raw = options.logprobs ? logSumExp(logits) : 0;
      const before = options.logprobs ? logits.slice() : undefined;
      options.constraint?.mask(logits);
      applyBias(logits, settings.logitBias);
      applyPenalties(logits, settings, recent.counts);
      const id = settings.temperature === 0 ? best(logits) : draw(logits, settings, random.next());
      recent.add(id);
      options.constraint?.accept(id);
      const logprob = before && (before[id] ?? 0) - raw;
      const { topLogprobs = 0 } = options;
      if (before === undefined || topLogprobs === 0) return { id, logprob };
      const likeliest = largest(allCandidates(before), topLogprobs);
      const top = Array.from(likeliest.ids, (id) => ({ id, logprob: (before[id] ?? 0) - raw }));
      return { id, logprob, top };
    },
  };
}

function draw(logits: Float32Array, settings: SamplingSettings, uniform: number): number {
  const { topK, typicalP, topP, minP, temperature } = settings;
  let candidates: Candidates = allCandidates(logits);
  if (topK > 0 && topK < logits.length) candidates = largest(candidates, topK);
  if (typicalP < 1) candidates = typical(candidates, typicalP);
  if (topP < 1) candidates = nucleus(candidates, topP);
  if (minP > 0) candidates = atLeast(candidates, minP);
  // Relative to the best, so that the smallest temperature does not overflow.
  const top = maximum(candidates);
  const scaled = { ...candidates, logits: candidates.logits.map((logit) => (logit - top) / temperature) };
  const p = probabilities(scaled);
  let rest = uniform;
  let last = -1;
  for (let i = 0; i < p.length; i++) {
    const share = p[i] ?? 0;
    if (share > 0) last = candidates.ids[i] ?? 0;
    rest -= share;
    if (rest < 0) break;
  }
  // Rounding can leave a sliver of `rest`; it belongs to the last possible token.
  if (last < 0) throw allForbidden();
  return last;
}

function best(logits: Float32Array): number {
  let id = -1;
  let top = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < logits.length; i++) {
    const value = logits[i] ?? 0;
    if (value > top) {
      top = value;
      id = i;
    }
  }
  if (id < 0) throw allForbidden();
  return id;
}

function allForbidden(): LowbitError {
  return new LowbitError("bad-argument", "logitBias forbids every token that may come next.", {
    reason: "logitBias",
  });
}

function applyBias(logits: Float32Array, bias: Readonly<Record<number, number>>): void {
  for (const [id, value] of Object.entries(bias)) logits[Number(id)] = (logits[Number(id)] ?? 0) + value;
}

function applyPenalties(
  logits: Float32Array,
  { repetitionPenalty, presencePenalty, frequencyPenalty }: SamplingSettings,
  counts: ReadonlyMap<number, number>,
): void {
  if (repetitionPenalty === 1 && presencePenalty === 0 && frequencyPenalty === 0) return;
  for (const [id, count] of counts) {
    const logit = logits[id];
    if (logit === undefined) continue;
    const repeated = logit <= 0 ? logit * repetitionPenalty : logit / repetitionPenalty;
    logits[id] = repeated - count * frequencyPenalty - presencePenalty;
  }
}

/** How often each of the last `window` tokens occurs (−1: all). */
function createRecent(
  window: number,
  prompt: readonly number[],
): { counts: ReadonlyMap<number, number>; add(id: number): void } {
  const counts = new Map<number, number>();
  const queue: number[] = [];
  let head = 0;
  const add = (id: number): void => {
    if (window === 0) return;
    counts.set(id, (counts.get(id) ?? 0) + 1);
    if (window < 0) return;
    queue.push(id);
    if (queue.length - head <= window) return;
    const old = queue[head++] ?? 0;
    const left = (counts.get(old) ?? 1) - 1;
    if (left > 0) counts.set(old, left);
    else counts.delete(old);
    if (head > 4096) {
      queue.splice(0, head);
      head = 0;
    }
  };
  for (const id of window < 0 ? prompt : prompt.slice(prompt.length - Math.min(window, prompt.length)))
    add(id);
  return { counts, add };
}

function checkFinite(logits: Float32Array): void {
  for (let id = 0; id < logits.length; id++) {
    if (!Number.isFinite(logits[id])) {
      throw new LowbitError("internal", `The model computed ${logits[id]} as the logit of token ${id}.`, {
        reason: "non-finite-logits",
        hint: 'The weights are damaged, or this backend cannot run them: check the file, and compare with backend: "reference".',
      });
    }
  }
}

function logSumExp(logits: Float32Array): number {
  const top = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  return top + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
}
