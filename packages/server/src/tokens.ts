import type { GenerateEvent, Tokenizer, TokenLogprob, Usage } from "@lowbit/core";

type TokenEvent = Extract<GenerateEvent, { type: "token" }>;

/** OpenAI's number for "cannot happen": JSON has no −Infinity. */
const never = -9999;

export const finite = (logprob: number | undefined): number =>
  logprob === undefined || !Number.isFinite(logprob) ? never : logprob;

function described(tokenizer: Tokenizer, { id, logprob }: TokenLogprob): object {
  const bytes = tokenizer.bytes(id, { special: true });
  return { token: new TextDecoder().decode(bytes), logprob: finite(logprob), bytes: [...bytes] };
}

/** An entry of `logprobs.content`. */
export function chatLogprob(tokenizer: Tokenizer, { id, logprob, top = [] }: TokenEvent): object {
  return {
    ...described(tokenizer, { id, logprob: finite(logprob) }),
    top_logprobs: top.map((each) => described(tokenizer, each)),
  };
}

export function usageOf({ promptTokens, cachedTokens, completionTokens }: Usage): object {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}
