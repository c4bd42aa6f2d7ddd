import type { GenerateRequest } from "@lowbit/core";
import { badField } from "./errors.ts";

type Sampling = Omit<GenerateRequest, "prompt" | "messages" | "signal">;

const names = {
  temperature: "temperature",
  top_p: "topP",
  top_k: "topK",
  min_p: "minP",
  typical_p: "typicalP",
  repetition_penalty: "repetitionPenalty",
  presence_penalty: "presencePenalty",
  frequency_penalty: "frequencyPenalty",
  seed: "seed",
  logit_bias: "logitBias",
} as const satisfies Readonly<Record<string, keyof Sampling>>;

/** The engine's options for checked fields; what is absent is left to the engine. */
export function samplingOf(fields: Readonly<Record<string, unknown>>): Sampling {
  const sampling: Record<string, unknown> = {};
  for (const [name, option] of Object.entries(names)) {
    if (fields[name] !== undefined) sampling[option] = fields[name];
  }
  const { stop } = fields as { stop?: string | readonly string[] };
  const stops = typeof stop === "string" ? [stop] : stop;
  if (stops !== undefined && stops.length > 0) sampling.stop = stops;
  // OpenAI's penalties look at the whole text.
  if ("presencePenalty" in sampling || "frequencyPenalty" in sampling) sampling.penaltyWindow = -1;
  return sampling;
}

/** The wanted number of tokens within the server's limit. Throws 400 if it is beyond. */
export function tokenLimit(
  fields: Readonly<Record<string, unknown>>,
  limit: number,
  ...candidates: readonly string[]
): { maxTokens?: number } {
  const name = candidates.find((each) => fields[each] !== undefined);
  const wanted = name === undefined ? undefined : (fields[name] as number);
  if (name !== undefined && wanted !== undefined && wanted > limit) {
    throw badField(name, `${name} is ${wanted}; this server gives at most ${limit} tokens.`);
  }
  const maxTokens = wanted ?? limit;
  return Number.isFinite(maxTokens) ? { maxTokens } : {};
}
