/** Where a tokenizer is built from; @lowbit/tokenizers understands both kinds. */
export type TokenizerSource =
  /** GGUF metadata: the `tokenizer.*` keys. */
  | { readonly kind: "ggml"; readonly metadata: ReadonlyMap<string, unknown> }
  /** Hugging Face: parsed tokenizer.json and tokenizer_config.json. */
  | {
      readonly kind: "huggingface";
      readonly tokenizer: unknown;
      readonly config?: unknown;
      /** Ids that end a generation, beside those the files name. */
      readonly endTokens?: readonly number[];
    };

export interface EncodeOptions {
  /** Add the model's own begin/end tokens where its configuration says so. @default true */
  addSpecial?: boolean;
  /** Read special tokens written out in the text as tokens; leave false for text from outside. @default false */
  parseSpecial?: boolean;
}

export interface Tokenizer {
  /** "bpe", "spm", "unigram", "wordpiece". */
  readonly kind: string;
  readonly vocabularySize: number;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  /** Tokens that end a generation: eos, end of turn, end of message. */
  readonly endTokens: ReadonlySet<number>;
  encode(text: string, options?: EncodeOptions): number[];
  /** Special tokens are left out unless `special`. Invalid UTF-8 becomes U+FFFD. */
  decode(ids: readonly number[], options?: { special?: boolean }): string;
  /** UTF-8 of a token within a text, perhaps a part of a character. Special tokens have none unless `special`. */
  bytes(id: number, options?: { special?: boolean }): Uint8Array;
  /** The token as written in the vocabulary. */
  token(id: number): string | undefined;
  id(token: string): number | undefined;
  isSpecial(id: number): boolean;
  /** A decoder for tokens as they come. */
  stream(options?: { special?: boolean }): TokenStream;
  /** The chat template's source, where the model has one. */
  readonly chatTemplate?: string;
  /** Undefined if the model has no chat template. Throws `bad-argument` for a template that fails or runs over its budget. */
  renderChat?(messages: readonly ChatMessage[], options?: ChatTemplateOptions): string;
}

export interface TokenStream {
  /** Text that is complete after this token; a split UTF-8 character is held back. */
  push(id: number): string;
  /** What is left. */
  flush(): string;
}

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant" | "tool" | (string & {});
  readonly content: string;
  readonly [key: string]: unknown;
}

export interface ChatTemplateOptions {
  /** Append the header of the assistant's turn. @default true */
  addGenerationPrompt?: boolean;
  /** OpenAI-style tool definitions. */
  tools?: readonly unknown[];
  /** Further variables of the template. */
  variables?: Readonly<Record<string, unknown>>;
  /** The time that templates print as today's date, in UTC. Set it for prompts that repeat. @default the current time */
  now?: Date;
}
