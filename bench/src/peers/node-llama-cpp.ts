import { getLlama, LlamaLogLevel, type Token } from "node-llama-cpp";
import type { Contestant, ContestantFactory } from "../contestant.ts";
import { version } from "./version.ts";

/** Native llama.cpp through its Node binding, on the CPU. */
export const nodeLlamaCpp: ContestantFactory = async ({ modelPath, contextLength, threads }) => {
  const started = performance.now();
  const llama = await getLlama({
    gpu: false,
    build: "never",
    logLevel: LlamaLogLevel.error,
    maxThreads: threads,
  });
  const model = await llama.loadModel({ modelPath });
  const context = await model.createContext({ contextSize: contextLength, threads, batchSize: 512 });
  const sequence = context.getSequence();
  const contestant: Contestant = {
    name: "node-llama-cpp",
    version: version("node-llama-cpp"),
    loadMs: performance.now() - started,
    async pass(prompt, decodeTokens) {
      await sequence.clearHistory();
      const tokens = prompt as readonly Token[];
      const begin = performance.now();
      await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(0, -1));
      let last = tokens[tokens.length - 1] as Token;
      const prompted = performance.now();
      let decoded = 0;
      for await (const token of sequence.evaluate([last], { temperature: 0 })) {
        last = token;
        decoded += 1;
        if (decoded === decodeTokens) break;
      }
      return {
        promptTokens: tokens.length - 1,
        promptMs: prompted - begin,
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
  return contestant;
};
