import {
  type Backend,
  type KvSpec,
  type KvType,
  LowbitError,
  type ModelConfig,
  type WeightEntry,
  type WeightSpec,
} from "@lowbit/core";
import { bytesText, countText } from "./text.ts";

/** One weight as it will lie in the backend. */
export interface PlannedWeight {
  readonly role: string;
  readonly kind: "linear" | "vector";
  readonly shape: readonly number[];
  /** Quantization type in the file. */
  readonly type: string;
  /** Kernel layout in the backend; "f32" for vectors. */
  readonly layout: string;
  readonly fileBytes: number;
  readonly backendBytes: number;
}

/** What a model will take, worked out before any weight is read. */
export interface MemoryPlan {
  readonly weights: readonly PlannedWeight[];
  readonly weightBytes: number;
  readonly kvBytes: number;
  /** An estimate, from above, for the largest pass. */
  readonly activationBytes: number;
  /** Weights, cache and activations: memory of the backend. */
  readonly totalBytes: number;
  /** The largest weight, which lies in host memory too while it is handed over. */
  readonly transferBytes: number;
  /** An estimate, from above, of the tokenizer's tables: memory of JavaScript. */
  readonly hostBytes: number;
  /** All at once, at the worst moment: while the last of the large weights is handed over, or in the largest pass. */
  readonly requiredBytes: number;
  /** What the platform, or the backend, leaves for `requiredBytes`. */
  readonly limitBytes: number;
  readonly fits: boolean;
  /** Most tokens of one sequence. */
  readonly contextLength: number;
  readonly kv: KvSpec;
  /** Most tokens of one pass. */
  readonly passTokens: number;
  /** Most rows of logits of one pass. */
  readonly passRows: number;
}

export interface PlanOptions {
  /** @default the model's, at most 4,096, and no more than fits */
  contextLength?: number | undefined;
  /** @default "f16" */
  kvCache?: KvType | undefined;
  /** Full contexts that the cache holds. @default 1 */
  sequences?: number | undefined;
  /** Of the platform. */
  memoryLimitBytes: number;
}

/** Positions in a page of the cache: small enough to share short prefixes, large enough for wide loads. */
const pageTokens = 32;
/** Tokens of a prefill pass, and rows of logits, best first; smaller ones need less memory for activations. */
const passSizes: readonly (readonly [tokens: number, rows: number])[] = [
  [128, 128],
  [64, 64],
  [32, 32],
  [32, 8],
  [16, 4],
];
const defaultContext = 4096;
/** A context below this is of no use, so the plan rather says no. */
const smallestContext = 256;
/** Of JavaScript for each token of a vocabulary: its text, its bytes, its places in tables. Measured: 180 with 49,152 tokens. */
const vocabularyEntryBytes = 200;
/** Logits of one pass are kept below this; evaluation asks for them in pieces. */
const logitsBytes = 2 ** 25;

/** Works out the plan: the given context, or the largest default one that fits. Never throws for want of memory. */
export function planMemory(
  config: ModelConfig,
  specs: readonly WeightSpec[],
  entries: ReadonlyMap<string, readonly WeightEntry[]>,
  backend: Backend,
  options: PlanOptions,
): MemoryPlan {
  const weights = specs.flatMap((spec) => planWeight(spec, entries, backend) ?? []);
  const transferBytes = weights.reduce((largest, weight) => Math.max(largest, weight.fileBytes), 0);
  const hostBytes = vocabularyEntryBytes * config.vocabularySize;
  const memory = backend.memory();
  const limitBytes = Math.min(memory.limitBytes + hostBytes, options.memoryLimitBytes) - memory.usedBytes;
  const base = {
    weights,
    weightBytes: sum(weights.map((weight) => weight.backendBytes)),
    transferBytes,
    hostBytes,
    limitBytes,
  };
  const loadingBytes = largestWhileLoading(weights);

  const build = (contextLength: number, [passSize, mostRows]: readonly [number, number]): MemoryPlan => {
    const kv = kvSpec(config, contextLength, options);
    const passTokens = config.causal === false ? contextLength : Math.min(passSize, contextLength);
    const passRows = Math.max(
      1,
      Math.min(passTokens, mostRows, Math.floor(logitsBytes / (4 * config.vocabularySize))),
    );
    const kvBytes = backend.kvBytes(kv);
    const activationBytes = activations(config, passTokens, passRows);
    const totalBytes = base.weightBytes + kvBytes + activationBytes;
    const requiredBytes = hostBytes + Math.max(totalBytes, kvBytes + loadingBytes);
    return {
      ...base,
      kvBytes,
      activationBytes,
      totalBytes,
      requiredBytes,
      fits: requiredBytes <= limitBytes,
      contextLength,
      kv,
      passTokens,
      passRows,
    };
  };
  const bestFor = (contextLength: number): MemoryPlan => {
    const plans = passSizes.map((size) => build(contextLength, size));
    return plans.find((plan) => plan.fits) ?? (plans[plans.length - 1] as MemoryPlan);
  };

  const wanted = options.contextLength ?? Math.min(config.contextLength, defaultContext);
  const plan = bestFor(wanted);
  if (plan.fits || options.contextLength !== undefined) return plan;
  return bestFor(largestContext(wanted, (contextLength) => bestFor(contextLength).fits));
}

/** The largest multiple of a page up to `wanted` that fits; the smallest useful one if none does. */
function largestContext(wanted: number, fits: (contextLength: number) => boolean): number {
  const smallest = Math.min(wanted, smallestContext);
  let low = 0;
  let high = Math.floor((wanted - smallest) / pageTokens);
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (fits(smallest + middle * pageTokens)) low = middle;
    else high = middle - 1;
  }
  return smallest + low * pageTokens;
}

/** Throws `bad-argument` for a context beyond what the model was made for. */
export function checkContext(wanted: number | undefined, modelContext: number): void {
  if (wanted === undefined || wanted <= modelContext) return;
  throw new LowbitError(
    "bad-argument",
    `load: contextLength is ${wanted}; the model was made for ${modelContext}.`,
    {
      reason: "contextLength",
      hint: `Give at most ${modelContext}.`,
    },
  );
}

/** Throws `out-of-memory` with the figures and what would fit. */
export function checkPlan(
  plan: MemoryPlan,
  name: string,
  backend: Backend,
  smaller: (options: { contextLength?: number | undefined; kvCache?: KvType | undefined }) => MemoryPlan,
): void {
  if (plan.fits) return;
  const parts =
    `weights ${bytesText(plan.weightBytes)}, cache for ${countText(plan.contextLength)} tokens in ${plan.kv.type} ` +
    `${bytesText(plan.kvBytes)}, activations ${bytesText(plan.activationBytes)}, tokenizer ${bytesText(plan.hostBytes)}`;
  const automatic = smaller({ kvCache: plan.kv.type });
  const hints: string[] = [];
  if (automatic.fits) hints.push(`contextLength: ${automatic.contextLength}`);
  if (
    plan.kv.type !== "q8_0" &&
    packable(plan.kv) &&
    smaller({ kvCache: "q8_0", contextLength: plan.contextLength }).fits
  )
    hints.push(`kvCache: "q8_0"`);
  throw new LowbitError(
    "out-of-memory",
    `${name} needs ${bytesText(plan.requiredBytes)} (${parts}), but the ${backend.name} backend may take ${bytesText(plan.limitBytes)}.`,
    {
      reason: "memory-plan",
      hint:
        hints.length > 0
          ? `It fits with ${hints.join(", or with ")}.`
          : "Choose a smaller model or one quantized to fewer bits, or raise memoryLimitBytes if the machine has more.",
    },
  );
}

/** May the cache be q8_0, which packs 32 values of a head? */
export function packable({ keySize, valueSize }: Pick<KvSpec, "keySize" | "valueSize">): boolean {
  return keySize % 32 === 0 && valueSize % 32 === 0;
}

function planWeight(
  spec: WeightSpec,
  entries: ReadonlyMap<string, readonly WeightEntry[]>,
  backend: Backend,
): PlannedWeight | undefined {
  const found = entries.get(spec.role) ?? [];
  const [first] = found;
  if (first === undefined) return undefined;
  const { role, kind, shape } = spec;
  const biases = kind === "linear" ? (entries.get(`${role}.bias`) ?? []) : [];
  const fileBytes = sum([...found, ...biases].map((entry) => entry.bytes));
  const values = shape.reduce((product, size) => product * size, 1);
  const columns = shape[shape.length - 1] ?? 1;
  const type = first.type.name;
  if (kind === "vector")
    return { role, kind, shape, type, layout: "f32", fileBytes, backendBytes: 4 * values };
  const rows = values / columns;
  const biasBytes = biases.length > 0 ? 4 * rows : 0;
  const segments = first.segments ?? [{ type: first.type, from: 0, to: columns }];
  // Packed modules may bring a permutation of their inputs, a factor and a bias for each row.
  const besideBytes = biasBytes + (first.segments ? 4 * (columns + 2 * rows) : 0);
  const parts = segments.map(({ type, from, to }) => backend.weightBytes(type, rows, to - from));
  const layout = [...new Set(segments.map((segment) => backend.layout(segment.type).name))].join(" + ");
  return { role, kind, shape, type, layout, fileBytes, backendBytes: sum(parts) + besideBytes };
}

/** Weights are handed over one by one: those before, and one more twice. */
function largestWhileLoading(weights: readonly PlannedWeight[]): number {
  let loaded = 0;
  let most = 0;
  for (const { backendBytes, fileBytes } of weights) {
    loaded += backendBytes;
    most = Math.max(most, loaded + fileBytes);
  }
  return most;
}

function kvSpec(config: ModelConfig, contextLength: number, options: PlanOptions): KvSpec {
  const { layers, kvHeads, keySize, valueSize } = config;
  const pages = Math.ceil(contextLength / pageTokens) * (options.sequences ?? 1);
  return { layers, kvHeads, keySize, valueSize, pageTokens, pages, type: options.kvCache ?? "f16" };
}

/**
 * Bytes of the tensors alive at once in the widest layer: the residual stream with its normalised and summed copies,
 * projections before and after rotation, attention's output, the feed-forward's gate, up and product; and the logits.
 * A quarter more covers quantized copies and rounding to the allocator's units.
 */
function activations(config: ModelConfig, tokens: number, rows: number): number {
  const { embeddingSize, heads, kvHeads, keySize, valueSize, feedForwardSize, vocabularySize, experts } =
    config;
  const queries = heads * keySize;
  const keys = kvHeads * (keySize + valueSize);
  const attention = 2 * (queries + keys) + heads * valueSize;
  const expert = experts
    ? experts.used * (4 * experts.feedForwardSize + embeddingSize) +
      3 * experts.count +
      3 * (experts.sharedFeedForwardSize ?? 0)
    : 0;
  const feedForward = 4 * Math.max(feedForwardSize, 0) + expert;
  const perToken = 6 * embeddingSize + Math.max(attention, feedForward);
  return Math.ceil(4 * (tokens * perToken + 2 * rows * vocabularySize) * 1.25);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
