import type { SharedV4ProviderOptions } from "@ai-sdk/provider";
import { type GenerateRequest, LowbitError } from "@lowbit/core";
import type { EmbedOptions } from "@lowbit/engine";

/** Under this name the AI SDK hands over `providerOptions` and hands back `providerMetadata`. */
export const providerName = "lowbit";

/** `providerOptions.lowbit` of language models: how tokens are chosen, beyond what the AI SDK has names for. */
export type LowbitLanguageModelOptions = Pick<
  GenerateRequest,
  "minP" | "typicalP" | "repetitionPenalty" | "penaltyWindow" | "logitBias"
>;

/** `providerOptions.lowbit` of embedding models. */
export type LowbitEmbeddingOptions = Pick<EmbedOptions, "pooling" | "normalize">;

const languageModelNames = [
  "minP",
  "typicalP",
  "repetitionPenalty",
  "penaltyWindow",
  "logitBias",
] as const satisfies readonly (keyof LowbitLanguageModelOptions)[];

const embeddingNames = ["pooling", "normalize"] as const satisfies readonly (keyof LowbitEmbeddingOptions)[];

/** Names are checked here, values by the engine. */
export function languageModelOptions(
  options: SharedV4ProviderOptions | undefined,
): LowbitLanguageModelOptions {
  return ownOptions(options, languageModelNames) as LowbitLanguageModelOptions;
}

export function embeddingOptions(options: SharedV4ProviderOptions | undefined): LowbitEmbeddingOptions {
  return ownOptions(options, embeddingNames) as LowbitEmbeddingOptions;
}

function ownOptions(options: SharedV4ProviderOptions | undefined, names: readonly string[]): object {
  const own = options?.[providerName] ?? {};
  const unknown = Object.keys(own).find((name) => !names.includes(name));
  if (unknown === undefined) return own;
  throw new LowbitError(
    "bad-argument",
    `providerOptions.${providerName} has no option ${JSON.stringify(unknown)}.`,
    { reason: "unknown-option", hint: `It knows ${names.join(", ")}.` },
  );
}
