import type { ChatMessage } from "./tokenizer.ts";

/** How the next token is chosen. */
export interface SamplingOptions {
  /** 0 is greedy. @default 0.8 */
  temperature?: number;
  /** Keep the k most likely; 0 keeps all. @default 40 */
  topK?: number;
  /** Keep the smallest set with this probability. @default 0.95 */
  topP?: number;
  /** Keep tokens at least this share as likely as the best. @default 0.05 */
  minP?: number;
  /** Locally typical sampling; 1 is off. @default 1 */
  typicalP?: number;
  /** Divides (or multiplies, if negative) the logits of recent tokens; 1 is off. @default 1 */
  repetitionPenalty?: number;
  /** @default 0 */
  presencePenalty?: number;
  /** @default 0 */
  frequencyPenalty?: number;
  /** Tokens that the penalties look back over; −1 is all. @default 64 */
  penaltyWindow?: number;
  /** Added to the logits, by token id. */
  logitBias?: Readonly<Record<number, number>>;
  /** Same seed, same text. @default a random one, reported in the finish event */
  seed?: number;
}

export interface GenerateRequest extends SamplingOptions {
  /** Plain text or token ids to continue. Exactly one of `prompt` and `messages`. */
  prompt?: string | readonly number[];
  /** A conversation, rendered with the model's chat template. */
  messages?: readonly ChatMessage[];
  tools?: readonly unknown[];
  /** @default what fits the context */
  maxTokens?: number;
  /** Generation ends before any of these strings. */
  stop?: readonly string[];
  /** Report the log probability of each token. @default false */
  logprobs?: boolean;
  signal?: AbortSignal;
}

export interface Usage {
  readonly promptTokens: number;
  /** Of those, taken from the cache. */
  readonly cachedTokens: number;
  readonly completionTokens: number;
}

export interface Timings {
  readonly promptMs: number;
  readonly generateMs: number;
  readonly promptTokensPerSecond: number;
  readonly tokensPerSecond: number;
}

export type GenerateEvent =
  | { readonly type: "prompt"; readonly done: number; readonly total: number }
  /** `text` may be empty while a character or a possible stop string is incomplete. */
  | { readonly type: "token"; readonly id: number; readonly text: string; readonly logprob?: number }
  | {
      readonly type: "finish";
      /** end: an end token; stop: a stop string; length: maxTokens or a full context. */
      readonly reason: "end" | "stop" | "length";
      /** Text held back until now. */
      readonly text: string;
      readonly seed: number;
      readonly usage: Usage;
      readonly timings: Timings;
    };

export interface Completion {
  readonly text: string;
  readonly tokens: readonly number[];
  readonly reason: "end" | "stop" | "length";
  readonly seed: number;
  readonly usage: Usage;
  readonly timings: Timings;
}
