import { getLlama, type LlamaContext, LlamaLogLevel, type LlamaModel, type Token } from "node-llama-cpp";

/** llama.cpp on one CPU thread, with f32 keys and values, as an oracle for one model. */
export interface LlamaCppOracle {
  readonly vocabularySize: number;
  /** Logits after each of the tokens, evaluated from an empty context: [tokens.length, vocabularySize]. */
  logits(tokens: readonly number[]): Promise<Float32Array>;
  /** Softmax of `logits`. */
  probabilities(tokens: readonly number[]): Promise<Float32Array>;
  /** The `count` tokens that follow, each the likeliest. */
  greedy(tokens: readonly number[], count: number): Promise<number[]>;
  tokenize(text: string, parseSpecial?: boolean): number[];
  detokenize(tokens: readonly number[]): string;
  dispose(): Promise<void>;
}

export interface LlamaCppOptions {
  /** @default 256 */
  readonly contextLength?: number;
  /** Of keys and values. llama.cpp's own default is f16. @default "F32" */
  readonly kvCache?: "F32" | "F16";
}

/**
 * Opens a GGUF file in llama.cpp. Token ids go in and out as they are: nothing is tokenized unless asked. Throws what
 * node-llama-cpp throws for a file that llama.cpp refuses; its messages go to stderr.
 */
export async function llamaCpp(path: string, options: LlamaCppOptions = {}): Promise<LlamaCppOracle> {
  const { contextLength = 256, kvCache = "F32" } = options;
  const llama = await getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    maxThreads: 1,
    logLevel: LlamaLogLevel.error,
  });
  try {
    const model = await llama.loadModel({ modelPath: path, gpuLayers: 0, useMmap: false });
    const context = await model.createContext({
      contextSize: contextLength,
      batchSize: contextLength,
      sequences: 1,
      threads: 1,
      flashAttention: false,
      swaFullCache: true,
      experimentalKvCacheKeyType: kvCache,
      experimentalKvCacheValueType: kvCache,
    });
    return oracle(model, context, () => llama.dispose());
  } catch (error) {
    await llama.dispose();
    throw error;
  }
}

function oracle(model: LlamaModel, context: LlamaContext, dispose: () => Promise<void>): LlamaCppOracle {
  const vocabularySize = model.fileInfo.metadata.tokenizer.ggml.tokens.length;
  const sequence = context.getSequence();

  async function logits(tokens: readonly number[]): Promise<Float32Array> {
    await sequence.clearHistory();
    const generateNext = { logits: true, options: { temperature: 1, topK: 0, topP: 1, minP: 0 } };
    const steps = await sequence.controlledEvaluate(
      tokens.map((token) => [token as Token, { generateNext }]),
    );
    const out = new Float32Array(tokens.length * vocabularySize).fill(Number.NaN);
    steps.forEach((step, i) => {
      for (const [token, logit] of step?.next.logits ?? []) out[i * vocabularySize + token] = logit;
    });
    return out;
  }

  return {
    vocabularySize,
    logits,
    probabilities: async (tokens) => softmaxRows(await logits(tokens), vocabularySize),
    async greedy(tokens, count) {
      const all = [...tokens];
      for (let i = 0; i < count; i++) {
        const last = (await logits(all)).subarray(-vocabularySize);
        all.push(last.indexOf(Math.max(...last)));
      }
      return all.slice(tokens.length);
    },
    tokenize: (text, parseSpecial = false) => [...model.tokenize(text, parseSpecial)],
    detokenize: (tokens) => model.detokenize(tokens as Token[]),
    dispose,
  };
}

/** Softmax over each row, in f64. */
export function softmaxRows(logits: Float32Array, columns: number): Float32Array {
  const out = new Float32Array(logits.length);
  for (let start = 0; start < logits.length; start += columns) {
    const row = logits.subarray(start, start + columns);
    const most = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
    let sum = 0;
    for (const logit of row) sum += Math.exp(logit - most);
    row.forEach((logit, i) => {
      out[start + i] = Math.exp(logit - most) / sum;
    });
  }
  return out;
}

/** How far distribution q is from p, over all rows. */
export function compareProbabilities(
  p: Float32Array,
  q: Float32Array,
  columns: number,
): { readonly largest: number; readonly meanKl: number } {
  let largest = 0;
  let kl = 0;
  for (let i = 0; i < p.length; i++) {
    const a = p[i] ?? 0;
    const b = q[i] ?? 0;
    largest = Math.max(largest, Math.abs(a - b));
    if (Number.isNaN(a) || Number.isNaN(b)) largest = Number.NaN;
    if (a > 0) kl += a * Math.log(a / b);
  }
  return { largest, meanKl: kl / (p.length / columns) };
}
