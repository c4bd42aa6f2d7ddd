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

/** A JSON Schema (draft 2020-12 or 7), or an object of a schema library that converts itself (Standard JSON Schema). */
export type SchemaInput = boolean | object;

/** The form that an answer keeps to, token by token. */
export type ResponseFormat =
  | { readonly type: "text" }
  /** Any JSON object. */
  | { readonly type: "json_object" }
  | {
      readonly type: "json_schema";
      readonly schema: SchemaInput;
      readonly name?: string;
      /** Objects that name properties have no others, unless `additionalProperties` allows them. @default true */
      readonly strict?: boolean;
    }
  /** The whole answer matches, in the dialect of JSON Schema's `pattern`. */
  | { readonly type: "regex"; readonly pattern: string };

/** auto: the model decides; none: the tools are not shown; required: one call or more; a name: one call of that tool. */
export type ToolChoice = "auto" | "none" | "required" | { readonly name: string };

export interface GenerateRequest extends SamplingOptions {
  /** Plain text or token ids to continue. Exactly one of `prompt` and `messages`. */
  prompt?: string | readonly number[];
  /** A conversation, rendered with the model's chat template. */
  messages?: readonly ChatMessage[];
  /** Functions that the model may call, OpenAI-style: `{ type: "function", function: { name, description, parameters } }`. */
  tools?: readonly unknown[];
  /** @default "auto" */
  toolChoice?: ToolChoice;
  /** @default { type: "text" } */
  responseFormat?: ResponseFormat;
  /** @default what fits the context; without end where it shifts */
  maxTokens?: number;
  /**
   * Where the context is full: stop ends the text ("length"); shift forgets half of what stands behind the first `keepTokens` and goes on, to
   * `maxTokens` or for as long as the model does. Models without rotated keys refuse it.
   * @default "stop"
   */
  contextOverflow?: "stop" | "shift";
  /** Tokens of the beginning that a shift never forgets, such as the system message. @default 4, which models lean on */
  keepTokens?: number;
  /** Generation ends before any of these strings. */
  stop?: readonly string[];
  /**
   * Most tokens that are guessed ahead and checked in one pass; 0 is off. The draft model guesses, if the model was loaded with one; else
   * the guess is what followed the same words before. The text stays the same, token for token. With the second kind texts that repeat
   * themselves or the prompt (edits, extraction, code) come faster, others a little slower.
   * @default 4 with a draft model, else 0
   */
  guessTokens?: number;
  /** Report the log probability of each token. @default false */
  logprobs?: boolean;
  /** Report so many of the likeliest tokens in the place of each, too; needs `logprobs`. @default 0 */
  topLogprobs?: number;
  signal?: AbortSignal;
}

export interface TokenLogprob {
  readonly id: number;
  /** Natural log of the probability that the model itself gave it. */
  readonly logprob: number;
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

export interface ToolCall {
  readonly type: "tool-call";
  /** Nine letters and digits, unique. */
  readonly id: string;
  readonly name: string;
  /** JSON: all `text` of its deltas. */
  readonly arguments: string;
}

/** end: an end token; stop: a stop string; length: maxTokens or a full context; tool-calls: ended, with at least one call. */
export type FinishReason = "end" | "stop" | "length" | "tool-calls";

/** Reasoning and calls in an answer to messages are events of their own, and no part of the `text` of tokens and finish. */
export type GenerateEvent =
  | { readonly type: "prompt"; readonly done: number; readonly total: number }
  /** `text` may be empty while a character or a possible stop string is incomplete. */
  | {
      readonly type: "token";
      readonly id: number;
      readonly text: string;
      readonly logprob?: number;
      /** The likeliest, best first. */
      readonly top?: readonly TokenLogprob[];
    }
  /** What the model thinks before it answers. */
  | { readonly type: "reasoning"; readonly text: string }
  /** Of the arguments of a call that is being written; the first has an empty `text`. */
  | { readonly type: "tool-call-delta"; readonly id: string; readonly name: string; readonly text: string }
  /** Comes after its deltas. A call that was cut off never comes. */
  | ToolCall
  | {
      readonly type: "finish";
      readonly reason: FinishReason;
      /** Text held back until now. */
      readonly text: string;
      readonly seed: number;
      readonly usage: Usage;
      readonly timings: Timings;
    };

export interface Completion {
  readonly text: string;
  readonly tokens: readonly number[];
  readonly reason: FinishReason;
  /** Where there was any. */
  readonly reasoning?: string;
  readonly toolCalls?: readonly ToolCall[];
  readonly seed: number;
  readonly usage: Usage;
  readonly timings: Timings;
}
