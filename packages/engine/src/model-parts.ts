import type { Grammar, Tokenizer } from "@lowbit/core";
import type { Model, ModelInfo } from "./model.ts";
import type { Runner } from "./runner.ts";

/** What a model is made of. */
export interface ModelParts {
  readonly runner: Runner;
  readonly tokenizer: Tokenizer | undefined;
  readonly grammar: Grammar | undefined;
  /** A smaller model of the same vocabulary that guesses ahead. */
  readonly draft: Runner | undefined;
  readonly info: ModelInfo;
}

const partsByModel = new WeakMap<object, ModelParts>();

/** Lets other models of this package find the parts of this one. */
export function keepParts(model: Model, parts: ModelParts): void {
  partsByModel.set(model, parts);
}

/** Undefined for what was not made here. */
export function partsOf(model: Model): ModelParts | undefined {
  return partsByModel.get(model);
}
