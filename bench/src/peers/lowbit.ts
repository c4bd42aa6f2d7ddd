import { load } from "lowbit";
import type { Contestant, ContestantFactory } from "../contestant.ts";
import { version } from "./version.ts";

/** lowbit as a user calls it: sampling and the event loop's turns are in the figures. */
export const lowbit: ContestantFactory = async ({ modelPath, contextLength }) => {
  const started = performance.now();
  const model = await load(modelPath, { contextLength });
  const loadMs = performance.now() - started;
  // The vocabulary is random: its end token is as likely as any other.
  const logitBias = Object.fromEntries(
    [...model.tokenizer.endTokens].map((id) => [id, Number.NEGATIVE_INFINITY]),
  );
  const contestant: Contestant = {
    name: `lowbit ${model.info.backendDescription}`,
    version: version("lowbit"),
    loadMs,
    async pass(prompt, decodeTokens) {
      const begin = performance.now();
      let prompted = begin;
      // The first token comes from the prompt's own logits: one more than is decoded.
      for await (const event of model.generate({
        prompt,
        maxTokens: decodeTokens + 1,
        temperature: 0,
        logitBias,
      })) {
        if (event.type === "prompt" && event.done === event.total) prompted = performance.now();
        if (event.type === "finish" && event.usage.cachedTokens > 0) {
          throw new Error(`${event.usage.cachedTokens} tokens of the prompt came from the cache`);
        }
      }
      return {
        promptTokens: prompt.length,
        promptMs: prompted - begin,
        decodedTokens: decodeTokens,
        decodeMs: performance.now() - prompted,
      };
    },
    close: () => model.dispose(),
  };
  return contestant;
};
