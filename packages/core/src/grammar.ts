import type { GenerateEvent, ResponseFormat, ToolChoice } from "./generate.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Limits which tokens may come next, so that the text keeps to a form. One for each generation. */
export interface TokenConstraint {
  /** Sets the logits of tokens that cannot come next to −Infinity. At least one token is left. */
  mask(logits: Float32Array): void;
  /** Goes on past a token; false, and no change, if it was not allowed. End tokens need not be shown. */
  accept(id: number): boolean;
  /** The text may end here. */
  readonly complete: boolean;
  /** Nothing but an end token may follow. */
  readonly done: boolean;
}

/** A piece of an answer, in the order of the text. */
export type AnswerPiece =
  | { readonly type: "text"; readonly text: string }
  | Extract<GenerateEvent, { type: "reasoning" | "tool-call-delta" | "tool-call" }>;

/** Takes an answer apart as it comes. One for each generation. */
export interface AnswerParser {
  /** Special tokens whose text the parser wants to see; others are no part of it. */
  readonly markers: ReadonlySet<number>;
  /** Pieces that are certain after this text. */
  push(text: string): AnswerPiece[];
  /** What was held back. A call that is not whole comes back as text, unless a delta of it is out already. */
  flush(): AnswerPiece[];
}

/** What of a request decides the form of its answer. */
export interface AnswerRequest {
  readonly responseFormat?: ResponseFormat | undefined;
  readonly tools?: readonly unknown[] | undefined;
  readonly toolChoice?: ToolChoice | undefined;
  /** The rendered conversation, whose end may have opened the reasoning; undefined for a plain prompt. */
  readonly rendered?: string | undefined;
}

/** Keeps the answers of one model in a form, and takes them apart. Its tables are made when first needed. */
export interface Grammar {
  /** Undefined where any text will do. Throws `bad-argument`, reason "schema", for what cannot be kept to, naming keyword and place. */
  constraint(request: AnswerRequest): TokenConstraint | undefined;
  /** Undefined where the answer is text alone. */
  parser(request: AnswerRequest): AnswerParser | undefined;
}

export type CreateGrammar = (tokenizer: Tokenizer) => Grammar;
