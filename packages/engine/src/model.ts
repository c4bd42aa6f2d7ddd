import type { Completion, GenerateEvent, GenerateRequest, ModelConfig, Tokenizer } from "@lowbit/core";
import { type Chat, type ChatOptions, createChat } from "./chat.ts";
import { checkEmbedOptions, type EmbedOptions, embed } from "./embed.ts";
import { type ForwardOptions, forward, forwardRows, type LogitRows } from "./forward.ts";
import { complete, generate } from "./generate.ts";
import { keepParts, type ModelParts } from "./model-parts.ts";
import { wrongValue } from "./options.ts";
import type { MemoryPlan } from "./plan.ts";
import { noTokenizer } from "./prompt.ts";
import type { RunnerStatus } from "./runner.ts";
import {
  type RestoredSession,
  restoreSession,
  type SessionOptions,
  saveSession,
  sessionPieces,
} from "./session.ts";

export interface ModelInfo {
  /** The model's own name, where it says one. */
  readonly name: string | undefined;
  readonly format: string;
  readonly architecture: string;
  readonly parameters: number;
  /** Of the file, over all its tensors. */
  readonly bitsPerWeight: number;
  readonly contextLength: number;
  readonly vocabularySize: number;
  readonly embeddingSize: number;
  /** Name of the backend it runs on. */
  readonly backend: string;
  /** Which build, instruction set or adapter that is. */
  readonly backendDescription: string;
  /** Backends that would have been preferred, and why they do not run here: "wasm: …". Empty where the first choice runs. */
  readonly unavailable: readonly string[];
  readonly plan: MemoryPlan;
}

/** What a model is doing at the moment. */
export type ModelStatus = RunnerStatus;

/** A loaded model. Calls may overlap: each has a sequence of its own, and those that run at the same time share passes. */
export interface Model {
  readonly info: ModelInfo;
  readonly config: ModelConfig;
  /** Throws `bad-argument` if the model carries none. */
  readonly tokenizer: Tokenizer;
  /**
   * Continues a prompt or answers a conversation, event by event. Errors come when the iteration starts or goes on: `bad-argument`
   * for a wrong option, `context-full` for a text that does not fit, `aborted`.
   */
  generate(request: GenerateRequest): AsyncGenerator<GenerateEvent, void, void>;
  /** The same, awaited whole. */
  complete(request: GenerateRequest): Promise<Completion>;
  chat(options?: ChatOptions): Chat;
  /** Logits [rows, vocabularySize] of the given tokens, computed in a fresh sequence. @default rows: "all" */
  forward(tokens: ArrayLike<number>, options?: ForwardOptions): Promise<Float32Array>;
  /** The same in pieces, for texts whose logits would not fit in memory. */
  forwardRows(tokens: ArrayLike<number>, options?: ForwardOptions): AsyncGenerator<LogitRows, void, void>;
  /** The text as one vector [embeddingSize]; texts as one each. */
  embed(text: string, options?: EmbedOptions): Promise<Float32Array>;
  embed(texts: readonly string[], options?: EmbedOptions): Promise<Float32Array[]>;
  /**
   * The keys and values of a text as bytes that `restoreSession` takes, in another process, too: what a long prompt or a conversation has
   * cost to read need not be computed again. Throws `bad-argument`/no-session where no text was given and none has ended.
   */
  saveSession(options?: SessionOptions): Promise<Uint8Array>;
  /** The same bytes piece by piece, for texts that should not be in memory twice. */
  streamSession(options?: SessionOptions): AsyncGenerator<Uint8Array, void, void>;
  /**
   * Puts a saved text back into the cache: generations that begin like it start from there (`usage.cachedTokens`), to the last bit as if it
   * had never left. All is checked before anything changes: throws `file-corrupt` for what is damaged, `bad-argument` for a session of another
   * model, other weights or another kind of cache, `context-full` where texts in work leave no room.
   */
  restoreSession(bytes: Uint8Array): Promise<RestoredSession>;
  /** Texts in work, and what of the memory is in use. */
  status(): ModelStatus;
  /** Waits for the pass in flight, ends all generations and frees the memory. May be called again. */
  dispose(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

export function createModel(parts: ModelParts): Model {
  const { runner, tokenizer, info } = parts;
  const start = (request: GenerateRequest): AsyncGenerator<GenerateEvent, void, void> =>
    generate(parts, request);

  const known = (): Tokenizer => {
    if (tokenizer === undefined) throw noTokenizer();
    return tokenizer;
  };

  function embedAll(text: string, options?: EmbedOptions): Promise<Float32Array>;
  function embedAll(texts: readonly string[], options?: EmbedOptions): Promise<Float32Array[]>;
  async function embedAll(
    input: string | readonly string[],
    options: EmbedOptions = {},
  ): Promise<Float32Array | Float32Array[]> {
    runner.checkAlive();
    checkEmbedOptions(options);
    const one = (text: string): Promise<Float32Array> => embed(runner, known().encode(text), options);
    if (typeof input === "string") return one(input);
    if (!Array.isArray(input) || input.some((text) => typeof text !== "string")) {
      throw wrongValue("embed", "text", input, "a string or an array of strings");
    }
    const vectors: Float32Array[] = [];
    for (const text of input as readonly string[]) vectors.push(await one(text));
    return vectors;
  }

  const dispose = (): Promise<void> => runner.dispose();
  const model: Model = {
    info,
    config: runner.config,
    get tokenizer() {
      return known();
    },
    generate: start,
    complete: async (request) => complete(start(request)),
    chat: (options) => createChat(start, complete, options),
    forward: (tokens, options) => forward(runner, tokens, options),
    forwardRows: (tokens, options) => forwardRows(runner, tokens, options),
    embed: embedAll,
    saveSession: (options) => saveSession(runner, tokenizer, options),
    streamSession: (options) => sessionPieces(runner, tokenizer, options),
    restoreSession: (bytes) => restoreSession(runner, bytes),
    status: () => runner.status(),
    dispose,
    [Symbol.asyncDispose]: dispose,
  };
  keepParts(model, parts);
  return model;
}
