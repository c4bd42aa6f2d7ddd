import { type GenerateRequest, LowbitError, type Tokenizer } from "@lowbit/core";
import { contextFull } from "./kv-cache.ts";

/** What of a request becomes its prompt. */
export type PromptRequest = Pick<GenerateRequest, "prompt" | "messages" | "tools" | "toolChoice">;

export interface EncodedPrompt {
  readonly tokens: number[];
  /** A conversation as its template wrote it. */
  readonly rendered: string | undefined;
}

/**
 * Token ids to continue. A prompt is plain text: special tokens written in it stay text. A conversation is rendered with the
 * model's chat template, whose special tokens count. Throws `bad-argument`, or `context-full` if it does not fit.
 */
export function encodePrompt(
  request: PromptRequest,
  tokenizer: Tokenizer | undefined,
  limits: { contextLength: number; vocabularySize: number },
): EncodedPrompt {
  const prompt = encode(request, tokenizer);
  const { tokens } = prompt;
  checkTokens(tokens, limits.vocabularySize);
  if (tokens.length > limits.contextLength) throw contextFull(tokens.length, limits.contextLength);
  return prompt;
}

/** Throws `bad-argument` for no tokens, or ids outside the vocabulary. */
export function checkTokens(tokens: ArrayLike<number>, vocabularySize: number): void {
  if (tokens.length === 0) {
    throw new LowbitError("bad-argument", "There are no tokens to start from.", {
      reason: "empty",
      hint: "Give some text, or at least the model's begin token.",
    });
  }
  for (let i = 0; i < tokens.length; i++) {
    const id = tokens[i] ?? -1;
    if (!Number.isInteger(id) || id < 0 || id >= vocabularySize) {
      throw new LowbitError("bad-argument", `Token ${i} is ${id}; ids go from 0 to ${vocabularySize - 1}.`, {
        reason: "token-id",
      });
    }
  }
}

function encode(request: PromptRequest, tokenizer: Tokenizer | undefined): EncodedPrompt {
  const { prompt, messages } = request;
  if (prompt !== undefined && typeof prompt !== "string") return { tokens: [...prompt], rendered: undefined };
  if (tokenizer === undefined) throw noTokenizer();
  const special = tokenizer.encode("", { addSpecial: true });
  if (typeof prompt === "string") {
    const tokens = tokenizer.encode(prompt, { addSpecial: true, parseSpecial: false });
    // An end token that the tokenizer appends would end the text that is to be continued.
    const ends = special.length > 0 && special[special.length - 1] === tokenizer.eos;
    if (ends && tokens[tokens.length - 1] === tokenizer.eos) tokens.pop();
    return { tokens, rendered: undefined };
  }
  const rendered = renderChat(request, tokenizer);
  const tokens = tokenizer.encode(rendered, { addSpecial: false, parseSpecial: true });
  // Templates differ in whether they write the begin token themselves.
  const begins = special[0] === tokenizer.bos ? tokenizer.bos : undefined;
  if (messages && begins !== undefined && tokens[0] !== begins) tokens.unshift(begins);
  return { tokens, rendered };
}

function renderChat({ messages, tools, toolChoice }: PromptRequest, tokenizer: Tokenizer): string {
  if (tokenizer.renderChat === undefined) {
    throw new LowbitError("bad-argument", "The model has no chat template, so it cannot take messages.", {
      reason: "no-chat-template",
      hint: "It is not made for conversation; give a prompt.",
    });
  }
  // A model that must not call a tool is not shown any.
  const shown = toolChoice === "none" ? undefined : tools;
  return tokenizer.renderChat(messages ?? [], { addGenerationPrompt: true, ...(shown && { tools: shown }) });
}

export function noTokenizer(): LowbitError {
  return new LowbitError("bad-argument", "The model has no tokenizer.", {
    reason: "no-tokenizer",
    hint: "The file carries none, or the engine was given no createTokenizer; token ids still work.",
  });
}
