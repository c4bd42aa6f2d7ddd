import {
  type Architecture,
  type Backend,
  type ForwardContext,
  type KvStore,
  LowbitError,
  type ModelConfig,
  type Platform,
  type TokenBatch,
} from "@lowbit/core";
import { createKvCache, type KvCache, type Sequence } from "./kv-cache.ts";
import { createMutex } from "./mutex.ts";
import type { MemoryPlan } from "./plan.ts";
import type { LoadedWeights } from "./weights.ts";

/** What a runner runs; it owns the backend from here on. */
export interface RunnerParts {
  readonly platform: Platform;
  readonly backend: Backend;
  readonly architecture: Architecture;
  readonly config: ModelConfig;
  readonly plan: MemoryPlan;
  readonly kv: KvStore;
  readonly weights: LoadedWeights;
}

/** Runs passes of one model, one at a time, and keeps the books of its cache. */
export interface Runner {
  readonly platform: Platform;
  readonly config: ModelConfig;
  readonly plan: MemoryPlan;
  readonly cache: KvCache;
  readonly disposed: boolean;
  /** Throws `bad-argument`/`disposed`. */
  checkAlive(): void;
  /**
   * Appends `tokens` to the sequence. `rows` index into `tokens`; the result has a row for each: logits, or hidden states.
   * Without rows nothing is read back.
   */
  step(
    sequence: Sequence,
    tokens: readonly number[],
    rows: readonly number[],
    output?: "logits" | "hidden",
  ): Promise<Float32Array>;
  /** Waits for the pass in flight, then frees everything. Idempotent. */
  dispose(): Promise<void>;
}

export function createRunner(parts: RunnerParts): Runner {
  const { platform, backend, architecture, config, plan, kv, weights } = parts;
  const { pageTokens, pages } = plan.kv;
  const cache = createKvCache({ pageTokens, pages, contextLength: plan.contextLength });
  const mutex = createMutex();
  const context = forwardContext(parts);
  let disposed: Promise<void> | undefined;

  const checkAlive = (): void => {
    if (disposed) {
      throw new LowbitError("bad-argument", "The model has been disposed.", {
        reason: "disposed",
        hint: "Load it again, or dispose it later.",
      });
    }
  };

  const pass = async (
    sequence: Sequence,
    tokens: readonly number[],
    rows: readonly number[],
    output: "logits" | "hidden",
  ): Promise<Float32Array> => {
    cache.reserve(sequence, tokens.length);
    const start = sequence.tokens.length;
    const batch: TokenBatch = {
      tokens: Int32Array.from(tokens),
      positions: Int32Array.from(tokens, (_, i) => start + i),
      sequences: new Int32Array(tokens.length),
      pages: [sequence.pages],
    };
    const silent = rows.length === 0;
    let result: Float32Array;
    try {
      // A pass without rows still ends in one, the cheapest: a hidden state is no vocabulary of logits.
      const wanted = silent ? [tokens.length - 1] : rows;
      const tensor = architecture.forward(
        context,
        batch,
        Int32Array.from(wanted),
        silent ? "hidden" : output,
      );
      await backend.submit();
      result = silent ? new Float32Array(0) : await backend.read(tensor);
    } catch (error) {
      // Whatever was recorded before the failure must not run as a part of the next pass.
      await backend.submit().catch(() => undefined);
      throw error;
    }
    cache.append(sequence, tokens);
    return result;
  };

  return {
    platform,
    config,
    plan,
    cache,
    get disposed() {
      return disposed !== undefined;
    },
    checkAlive,
    step(sequence, tokens, rows, output = "logits") {
      return mutex.run(async () => {
        checkAlive();
        return pass(sequence, tokens, rows, output);
      });
    },
    dispose() {
      disposed ??= mutex.run(async () => {
        for (const weight of weights.linear.values()) backend.free(weight);
        for (const { tensor } of weights.vectors.values()) backend.free(tensor);
        backend.free(kv);
        await backend.dispose();
      });
      return disposed;
    },
  };
}

function forwardContext({ backend, config, kv, plan, weights }: RunnerParts): ForwardContext {
  const { linear, vectors } = weights;
  const find = <T>(map: ReadonlyMap<string, T>, role: string): T => {
    const found = map.get(role);
    if (found === undefined) {
      throw new LowbitError(
        "weight-missing",
        `The architecture asked for the weight ${role}, which was not loaded.`,
        {
          reason: "missing-weight",
        },
      );
    }
    return found;
  };
  return {
    ops: backend.ops,
    // The length that was loaded: it decides between a model's short and long rotation factors.
    config: { ...config, contextLength: plan.contextLength },
    kv,
    weight: (role) => find(linear, role),
    vector: (role) => find(vectors, role).tensor,
    values: (role) => find(vectors, role).values,
    has: (role) => linear.has(role) || vectors.has(role),
  };
}
