import type { CreateGrammar, Tokenizer } from "@lowbit/core";
import { createEngine, type Engine, type LoadOptions, type Model } from "../src/index.ts";
import {
  byteTokenizer,
  type Script,
  type ScriptedBackend,
  type ScriptedBackendOptions,
  type ScriptedFormat,
  type ScriptedFormatOptions,
  scriptedArchitecture,
  scriptedBackend,
  scriptedFile,
  scriptedFormat,
  testPlatform,
} from "./scripted.ts";

export interface ScriptedOptions {
  script?: Script;
  backend?: ScriptedBackendOptions;
  format?: ScriptedFormatOptions;
  memoryLimitBytes?: number;
  /** Whether its positions may move. @default true */
  shifts?: boolean;
  createGrammar?: CreateGrammar;
  /** What the tokenizer has beyond bytes. */
  tokenizer?: Partial<Tokenizer>;
}

export interface Scripted {
  readonly engine: Engine;
  readonly backend: ScriptedBackend;
  readonly format: ScriptedFormat;
  load(options?: LoadOptions): Promise<Model>;
}

/** An engine over the scripted parts. */
export function scripted(options: ScriptedOptions = {}): Scripted {
  const backend = scriptedBackend(options.backend);
  const format = scriptedFormat(options.format);
  const engine = createEngine({
    platform: testPlatform(options.memoryLimitBytes),
    backends: [backend],
    plugins: [{ name: "scripted", apiVersion: 1, formats: [format] }],
    architectures: [scriptedArchitecture(options.script, options.shifts)],
    createTokenizer: () => ({ ...byteTokenizer(), ...options.tokenizer }),
    ...(options.createGrammar && { createGrammar: options.createGrammar }),
  });
  return { engine, backend, format, load: (load) => engine.load(scriptedFile, load) };
}
