export type { ModelSource } from "./models.ts";
export type { LowbitEmbeddingOptions, LowbitLanguageModelOptions } from "./options.ts";
export { createLowbit, type LowbitOptions, type LowbitProvider } from "./provider.ts";
