import { LowbitError, throwIfAborted } from "./errors.ts";
import { portableMath } from "./math.ts";

/**
 * Logits after the tokens [from, to) of one fresh sequence: [to − from, vocabulary], row by row. A model's
 * `forward(tokens, { rows: [from, to] })` is one.
 */
export type SequenceLogits = (tokens: Int32Array, from: number, to: number) => Promise<Float32Array>;

export interface PerplexityOptions {
  /** Tokens in a chunk. @default 512 */
  context?: number;
  /** Takes the place of each chunk's first token. @default none: chunks stay as they are */
  bos?: number;
  /** Chunks at most. @default all */
  maxChunks?: number;
  onProgress?: (progress: {
    readonly chunk: number;
    readonly chunks: number;
    readonly perplexity: number;
  }) => void;
  signal?: AbortSignal;
}

export interface Perplexity {
  /** e^(mean negative log-likelihood). */
  readonly perplexity: number;
  /** Standard error of the perplexity, from the spread of the tokens' likelihoods. */
  readonly standardError: number;
  /** In nats. */
  readonly meanNegativeLogLikelihood: number;
  readonly scoredTokens: number;
  readonly chunks: number;
}

/**
 * Perplexity as llama.cpp's `llama-perplexity` measures it, so that figures compare: the text is tokenized as a whole with its
 * begin token, cut into chunks of `context` tokens (a shorter rest is left out), the first token of each is replaced by the
 * begin token where the model wants one, and of each chunk only the tokens after the first `context/2 + 1` are scored, which
 * have at least half a context before them. Throws `bad-argument` for less than one chunk and `internal` for logits that are
 * no numbers.
 */
export async function perplexity(
  logits: SequenceLogits,
  tokens: ArrayLike<number>,
  options: PerplexityOptions = {},
): Promise<Perplexity> {
  const { context = 512, bos, maxChunks = Number.POSITIVE_INFINITY, onProgress, signal } = options;
  if (!(Number.isInteger(context) && context >= 4)) {
    throw invalid(`The context is ${context}; expected an integer of at least 4.`);
  }
  if (!(maxChunks >= 1)) throw invalid(`maxChunks is ${maxChunks}; expected at least 1.`);
  const chunks = Math.min(Math.floor(tokens.length / context), maxChunks);
  if (chunks < 1) {
    throw invalid(`The text has ${tokens.length} tokens; at least one chunk of ${context} is needed.`);
  }
  const first = Math.floor(context / 2);
  let count = 0;
  let sum = 0;
  let squares = 0;
  for (let chunk = 0; chunk < chunks; chunk++) {
    throwIfAborted(signal);
    const ids = Int32Array.from({ length: context }, (_, i) => tokens[chunk * context + i] ?? 0);
    const targets = ids.slice(first + 1);
    if (bos !== undefined) ids[0] = bos;
    const values = await logits(ids, first, context - 1);
    const width = values.length / targets.length;
    targets.forEach((target, i) => {
      const nll = negativeLogLikelihood(values.subarray(i * width, (i + 1) * width), target);
      count++;
      sum += nll;
      squares += nll * nll;
    });
    onProgress?.({ chunk: chunk + 1, chunks, perplexity: portableMath.exp(sum / count) });
  }
  const mean = sum / count;
  const value = portableMath.exp(mean);
  const variance = Math.max(0, squares / count - mean * mean);
  return {
    perplexity: value,
    standardError: value * Math.sqrt(variance / Math.max(1, count - 1)),
    meanNegativeLogLikelihood: mean,
    scoredTokens: count,
    chunks,
  };
}

/** −log softmax(logits)[target], in f64. */
export function negativeLogLikelihood(logits: Float32Array, target: number): number {
  const { exp, log } = portableMath;
  const wanted = logits[target];
  if (wanted === undefined) throw invalid(`Token ${target} is outside the ${logits.length} logits of a row.`);
  let most = Number.NEGATIVE_INFINITY;
  for (const value of logits) most = Math.max(most, value);
  let sum = 0;
  for (const value of logits) sum += exp(value - most);
  const result = most + log(sum) - wanted;
  if (Number.isFinite(result)) return result;
  throw new LowbitError("internal", `The logits give token ${target} a likelihood of e^−(${result}).`, {
    reason: "not-finite",
  });
}

function invalid(what: string): LowbitError {
  return new LowbitError("bad-argument", what, { reason: "perplexity" });
}
