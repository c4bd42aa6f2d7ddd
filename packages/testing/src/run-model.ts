import type {
  Architecture,
  Backend,
  Checkpoint,
  ForwardContext,
  KvType,
  ModelConfig,
  Ops,
  Tensor,
  TokenBatch,
  Weight,
} from "@lowbit/core";

export interface OpenModelOptions {
  readonly checkpoint: Checkpoint;
  readonly architectures: readonly Architecture[];
  readonly backend: Backend;
  readonly contextLength: number;
  /** Sequences that the cache has room for. @default 1 */
  readonly sequences?: number;
  /** @default "f32" */
  readonly kvType?: KvType;
  /** What the model is recorded with. @default the backend's */
  readonly ops?: Ops;
}

/** A model on a backend, without an engine. */
export interface OpenModel {
  readonly context: ForwardContext;
  /** Page table of a sequence, backwards, so that an order taken for granted shows. */
  pages(sequence?: number): Int32Array;
  forward(batch: TokenBatch, rows: Int32Array, output?: "logits" | "hidden"): Promise<Float32Array>;
  /** Frees weights and cache. The checkpoint stays open. */
  free(): void;
}

export interface RunModelOptions extends Omit<OpenModelOptions, "contextLength" | "sequences"> {
  readonly tokens: readonly number[];
  /** @default the number of tokens */
  readonly contextLength?: number;
  /** Tokens given to one pass; more passes use the cache. @default all */
  readonly chunk?: number;
}

const pageTokens = 16;

/** Uploads every weight that the architecture lists and makes a cache. */
export async function openModel(options: OpenModelOptions): Promise<OpenModel> {
  const { checkpoint, backend, contextLength, sequences = 1, kvType = "f32" } = options;
  const config: ModelConfig = { ...checkpoint.config, contextLength };
  const architecture = options.architectures.find(({ names }) => names.includes(config.architecture));
  if (architecture === undefined) throw new Error(`no architecture runs ${config.architecture}`);
  const weights = new Map<string, Weight>();
  const vectors = new Map<string, Tensor>();
  const host = new Map<string, Float32Array>();
  const present = new Set(checkpoint.entries().map(({ role }) => role));
  for (const { role, kind, optional } of architecture.weights(checkpoint.config)) {
    if (optional && !present.has(role)) continue;
    if (kind === "linear") weights.set(role, backend.upload(await checkpoint.weight(role)));
    else {
      const values = await checkpoint.vector(role);
      host.set(role, values);
      vectors.set(role, backend.vector(values));
    }
  }
  const perSequence = Math.ceil(contextLength / pageTokens);
  const pages = perSequence * sequences;
  const kv = backend.kv({ ...config, pageTokens, pages, type: kvType });
  const get = <T>(map: ReadonlyMap<string, T>, role: string): T => {
    const value = map.get(role);
    if (value === undefined) throw new Error(`the architecture asked for ${role}, which it does not list`);
    return value;
  };
  const context: ForwardContext = {
    ops: options.ops ?? backend.ops,
    config,
    kv,
    weight: (role) => get(weights, role),
    vector: (role) => get(vectors, role),
    values: (role) => get(host, role),
    has: (role) => weights.has(role) || vectors.has(role),
  };
  return {
    context,
    pages: (sequence = 0) =>
      Int32Array.from({ length: perSequence }, (_, i) => pages - 1 - sequence * perSequence - i),
    async forward(batch, rows, output = "logits") {
      const result = architecture.forward(context, batch, rows, output);
      await backend.submit();
      return backend.read(result);
    },
    free() {
      for (const resource of [...weights.values(), ...vectors.values(), kv]) backend.free(resource);
    },
  };
}

/** Logits after each of the tokens, [tokens, vocabulary]: one sequence in a model that is opened for it and freed again. */
export async function runModel(options: RunModelOptions): Promise<Float32Array> {
  const { tokens } = options;
  const model = await openModel({ ...options, contextLength: options.contextLength ?? tokens.length });
  const { vocabularySize } = model.context.config;
  const logits = new Float32Array(tokens.length * vocabularySize);
  const chunk = options.chunk ?? tokens.length;
  for (let from = 0; from < tokens.length; from += chunk) {
    const part = Int32Array.from(tokens.slice(from, from + chunk));
    const batch: TokenBatch = {
      tokens: part,
      positions: part.map((_, i) => from + i),
      sequences: new Int32Array(part.length),
      pages: [model.pages()],
    };
    const rows = part.map((_, i) => i);
    logits.set(await model.forward(batch, rows), from * vocabularySize);
  }
  model.free();
  return logits;
}
