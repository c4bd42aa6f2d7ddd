import { type EmbeddingModelV4, UnsupportedFunctionalityError } from "@ai-sdk/provider";
import { orAbort, waitFor } from "./abort.ts";
import type { LazyModel } from "./models.ts";
import { embeddingOptions, providerName } from "./options.ts";

/** Texts of one call are in work at the same time; more would fill no pass better, and hold more memory. */
const maxEmbeddingsPerCall = 256;

export function createEmbeddingModel(modelId: string, source: LazyModel): EmbeddingModelV4 {
  return {
    specificationVersion: "v4",
    provider: providerName,
    modelId,
    maxEmbeddingsPerCall,
    // Calls may overlap, but one after the other is as fast: each fills the passes.
    supportsParallelCalls: false,

    async doEmbed({ values, dimensions, abortSignal, providerOptions }) {
      const options = embeddingOptions(providerOptions);
      return orAbort(abortSignal, async () => {
        const model = await waitFor(source.get(), abortSignal);
        const { embeddingSize } = model.info;
        if (dimensions !== undefined && dimensions !== embeddingSize) {
          throw new UnsupportedFunctionalityError({
            functionality: "dimensions",
            message: `The embeddings of ${modelId} have ${embeddingSize} dimensions, not ${dimensions}.`,
          });
        }
        // Where one text fails, the others stop.
        const failed = new AbortController();
        const signal = abortSignal ? AbortSignal.any([abortSignal, failed.signal]) : failed.signal;
        const vectors = await Promise.all(
          values.map((value) => model.embed(value, { ...options, signal })),
        ).catch((error: unknown) => {
          failed.abort();
          throw error;
        });
        const tokens = values.reduce((sum, value) => sum + model.tokenizer.encode(value).length, 0);
        return { embeddings: vectors.map((vector) => [...vector]), usage: { tokens }, warnings: [] };
      });
    },
  };
}
