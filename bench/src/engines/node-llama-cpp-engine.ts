import { getLlama, LlamaLogLevel, type Token } from "node-llama-cpp";
import type { Engine, Started, StartOptions } from "../contestant.ts";

/** Native llama.cpp through its Node binding, on the CPU. */
export async function startNodeLlamaCpp({
  modelPath,
  contextLength,
  threads,
  firstPrompt,
}: StartOptions): Promise<Started & { engine: Engine }> {
  const started = performance.now();
  const llama = await getLlama({
    gpu: false,
    build: "never",
    logLevel: LlamaLogLevel.error,
    maxThreads: threads,
  });
  const model = await llama.loadModel({ modelPath });
  const context = await model.createContext({ contextSize: contextLength, threads, batchSize: 512 });
  const loadMs = performance.now() - started;
  const sequence = context.getSequence();
  let kept: string | undefined;
  const engine: Engine = {
    async pass({ prompt, decodeTokens, keep }) {
      const tokens = prompt as readonly Token[];
      const last = tokens.length - 1;
      const name = prompt.join();
      if (!keep || name !== kept) await sequence.clearHistory();
      else if (sequence.nextTokenIndex > last)
        await sequence.eraseContextTokenRanges([{ start: last, end: sequence.nextTokenIndex }]);
      kept = name;
      const known = sequence.nextTokenIndex;
      const begin = performance.now();
      if (known < last) await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(known, last));
      const prompted = performance.now();
      let first = 0;
      let decoded = 0;
      // The last token of the prompt is decoded like those that follow.
      for await (const _ of sequence.evaluate([tokens[last] as Token], { temperature: 0 })) {
        if (first === 0) first = performance.now();
        decoded += 1;
        if (decoded >= decodeTokens) break;
      }
      return {
        promptTokens: last - known,
        promptMs: prompted - begin,
        firstTokenMs: first - begin,
        decodedTokens: decoded,
        decodeMs: performance.now() - prompted,
      };
    },
    async close() {
      await context.dispose();
      await model.dispose();
      await llama.dispose();
    },
  };
  await engine.pass({ prompt: firstPrompt, decodeTokens: 1, keep: false });
  const openToFirstTokenMs = performance.now() - started;
  // "CPU : SSE3 = 1 | AVX2 = 1 | …"
  const features = [...llama.systemInfo.matchAll(/(\w+) = 1/g)].map(([, name]) => name);
  return { engine, description: features.join(" "), loadMs, openToFirstTokenMs };
}
