import { type JsonValue, parseJson } from "@lowbit/core";
import { expect } from "vitest";
import { type HuggingFaceModel, huggingFaceModel } from "../src/index.ts";

export type Fields = Readonly<Record<string, unknown>>;

/** Fields that every family but gpt2 needs. */
export const common: Fields = {
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 8,
  max_position_embeddings: 4096,
  vocab_size: 100,
  rms_norm_eps: 1e-5,
};

export const parse = (fields: Fields): ReadonlyMap<string, JsonValue> =>
  parseJson(JSON.stringify(fields), "test") as ReadonlyMap<string, JsonValue>;

/** Common fields and others; undefined removes a field. */
export const read = (modelType: string, fields: Fields = {}): HuggingFaceModel =>
  huggingFaceModel(parse({ model_type: modelType, ...common, ...fields }));
export const config = (modelType: string, fields: Fields = {}): HuggingFaceModel["config"] =>
  read(modelType, fields).config;
export const corrupt = (reason: string, field: string): Error =>
  expect.objectContaining({ code: "file-corrupt", reason, message: expect.stringContaining(`"${field}"`) });
export const unsupported = (reason: string): Error =>
  expect.objectContaining({ code: "architecture-unsupported", reason });
