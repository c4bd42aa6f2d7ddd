import type { LoadOptions, Model } from "@lowbit/engine";
import type { Engine, Started, StartOptions } from "../contestant.ts";

/**
 * lowbit as a user calls it, in whatever runtime this is: sampling and the event loop's turns are in the figures. `load` is the engine's or the
 * package's, with its location.
 */
export async function startLowbit(
  load: (options: LoadOptions) => Promise<Model>,
  { contextLength, threads, firstPrompt }: Omit<StartOptions, "modelPath">,
): Promise<Started & { engine: Engine }> {
  const started = performance.now();
  const model = await load({ contextLength, threads });
  const loadMs = performance.now() - started;
  // Where threads cannot share memory it runs one, which would be another measurement.
  const description = model.info.backendDescription;
  if (!description.endsWith(threads === 1 ? "one thread" : `${threads} threads`)) {
    await model.dispose();
    throw new Error(`It runs as ${JSON.stringify(description)}, not on ${threads} threads.`);
  }
  const engine = engineOf(model);
  await engine.pass({ prompt: firstPrompt, decodeTokens: 0, keep: false });
  const openToFirstTokenMs = performance.now() - started;
  return { engine, description, loadMs, openToFirstTokenMs };
}

function engineOf(model: Model): Engine {
  // The vocabulary is random: its end token is as likely as any other.
  const logitBias = Object.fromEntries(
    [...model.tokenizer.endTokens].map((id) => [id, Number.NEGATIVE_INFINITY]),
  );
  return {
    async pass({ prompt, decodeTokens, keep }) {
      const begin = performance.now();
      let prompted = begin;
      let first = 0;
      let cached = 0;
      // The first token comes from the prompt's own logits: one more than is decoded.
      const request = { prompt, maxTokens: decodeTokens + 1, temperature: 0, logitBias };
      for await (const event of model.generate(request)) {
        if (event.type === "prompt" && event.done === event.total) prompted = performance.now();
        if (event.type === "token" && first === 0) first = performance.now();
        if (event.type === "finish") cached = event.usage.cachedTokens;
      }
      if (!keep && cached > 0) throw new Error(`${cached} tokens of the prompt came from the cache.`);
      return {
        promptTokens: prompt.length - cached,
        promptMs: prompted - begin,
        firstTokenMs: first - begin,
        decodedTokens: decodeTokens,
        decodeMs: performance.now() - prompted,
      };
    },
    close: () => model.dispose(),
  };
}
