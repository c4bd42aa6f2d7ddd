import {
  type EmbeddingModelV4,
  type LanguageModelV4,
  NoSuchModelError,
  type ProviderV4,
} from "@ai-sdk/provider";
import { LowbitError } from "@lowbit/core";
import { createEmbeddingModel } from "./embedding-model.ts";
import { createLanguageModel } from "./language-model.ts";
import { createLazyModel, type LazyModel, type ModelSource } from "./models.ts";

export interface LowbitOptions {
  /** The one model. Exactly one of `model` and `models`. */
  model?: ModelSource;
  /** Its id. @default "default" */
  name?: string;
  /** Several models, by id. */
  models?: Readonly<Record<string, ModelSource>>;
}

/** A provider for the AI SDK. Called as a function it gives a language model. */
export interface LowbitProvider extends ProviderV4 {
  /** The language model with this id; without one, the first. Throws NoSuchModelError. */
  (modelId?: string): LanguageModelV4;
  languageModel(modelId?: string): LanguageModelV4;
  embeddingModel(modelId?: string): EmbeddingModelV4;
  /** Frees the models that this provider loaded from locations and functions. Models that were handed over stay their owner's. */
  dispose(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Gives lowbit's models to the AI SDK: `generateText({ model: createLowbit({ model })(), prompt })`. Nothing is loaded before the first
 * call that needs it.
 *
 * Throws a LowbitError `bad-argument` if there is no model.
 */
export function createLowbit({ model, name = "default", models }: LowbitOptions): LowbitProvider {
  const sources = models ?? (model === undefined ? {} : { [name]: model });
  if ((model === undefined) === (models === undefined) || Object.keys(sources).length === 0) {
    throw new LowbitError("bad-argument", "createLowbit takes either model or models, with at least one.", {
      reason: "model",
      hint: 'Give { model: await load("model.gguf") }, or { models: { name: … } }.',
    });
  }
  const byId = new Map(Object.entries(sources).map(([id, source]) => [id, createLazyModel(id, source)]));
  const ids = [...byId.keys()];

  const find = (modelType: "languageModel" | "embeddingModel", modelId: string): LazyModel => {
    const found = byId.get(modelId);
    if (found) return found;
    const message = `There is no model ${JSON.stringify(modelId)} here; there is ${ids.join(", ")}.`;
    throw new NoSuchModelError({ modelId, modelType, message });
  };
  const languageModel = (modelId = ids[0] as string): LanguageModelV4 =>
    createLanguageModel(modelId, find("languageModel", modelId));
  const embeddingModel = (modelId = ids[0] as string): EmbeddingModelV4 =>
    createEmbeddingModel(modelId, find("embeddingModel", modelId));
  const dispose = async (): Promise<void> => {
    await Promise.all([...byId.values()].map((each) => each.dispose()));
  };

  return Object.assign((modelId?: string) => languageModel(modelId), {
    specificationVersion: "v4" as const,
    languageModel,
    embeddingModel,
    imageModel(modelId: string): never {
      const message = "lowbit's models write text and embed it; they make no images.";
      throw new NoSuchModelError({ modelId, modelType: "imageModel", message });
    },
    dispose,
    [Symbol.asyncDispose]: dispose,
  });
}
