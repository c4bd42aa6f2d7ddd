import {
  type Architecture,
  type Backend,
  type ForwardContext,
  type KeyTurn,
  type KvStore,
  LowbitError,
  type ModelConfig,
  type Platform,
} from "@lowbit/core";
import { modelIdentity } from "./identity.ts";
import { createKvCache, type KvCache, type Sequence } from "./kv-cache.ts";
import type { MemoryPlan } from "./plan.ts";
import { createScheduler, type Output } from "./scheduler.ts";
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

/** Runs passes of one model, one at a time, each for whoever waits, and keeps the books of its cache. */
export interface Runner {
  readonly platform: Platform;
  readonly config: ModelConfig;
  readonly plan: MemoryPlan;
  readonly cache: KvCache;
  readonly disposed: boolean;
  /** Throws `bad-argument`/`disposed`. */
  checkAlive(): void;
  /**
   * Appends `tokens` to the sequence. `rows` index into `tokens` and rise; the result has a row for each: logits, or hidden states.
   * Without rows nothing is read back. The signal takes effect until the tokens' pass begins.
   */
  step(
    sequence: Sequence,
    tokens: readonly number[],
    rows: readonly number[],
    output?: Output,
    signal?: AbortSignal,
  ): Promise<Float32Array>;
  /** Whether the model's keys can move: `cache.shift` may be called. */
  readonly canShift: boolean;
  /** As the backend's, of this model's cache. */
  readPage(page: number, count: number): Promise<Uint8Array>;
  writePage(page: number, count: number, bytes: Uint8Array): void;
  /** `modelIdentity`, worked out when it is first asked for. */
  identity(): Promise<Uint8Array>;
  status(): RunnerStatus;
  /** Waits for the pass in flight, then frees everything. Idempotent. */
  dispose(): Promise<void>;
}

/** What a runner is doing at the moment. */
export interface RunnerStatus {
  /** Texts in work. */
  readonly running: number;
  /** Of those, how many wait for a pass. */
  readonly waiting: number;
  /** Passes run since the model was loaded. */
  readonly passes: number;
  readonly pages: number;
  /** Pages of the cache that hold nothing. */
  readonly freePages: number;
  /** Memory of the backend in use: weights, cache, activations. */
  readonly usedBytes: number;
  /** What the backend has taken from the system, and the plan's estimate for the tokenizer. */
  readonly heldBytes: number;
}

export function createRunner(parts: RunnerParts): Runner {
  const { platform, backend, architecture, config, plan, kv, weights } = parts;
  const { pageTokens, pages } = plan.kv;
  const cache = createKvCache({
    pageTokens,
    pages,
    contextLength: plan.contextLength,
    copyPage: (from, to) => backend.copyPage(kv, from, to),
    movePositions(move) {
      const layers = Array.from({ length: config.layers }, (_, layer) => layer);
      const turns = layers.map((layer) => keyTurn(layer, move.to - move.from));
      backend.movePositions(kv, { ...move, turns });
    },
  });
  const context = forwardContext(parts);
  const keyTurn = (layer: number, by: number): KeyTurn => {
    if (architecture.keyTurn) return architecture.keyTurn(context, layer, by);
    throw new LowbitError(
      "internal",
      `Positions of ${architecture.id} were to move, whose keys do not turn.`,
    );
  };
  let disposed: Promise<void> | undefined;
  let identity: Promise<Uint8Array> | undefined;

  const gone = (): LowbitError =>
    new LowbitError("bad-argument", "The model has been disposed.", {
      reason: "disposed",
      hint: "Load it again, or dispose it later.",
    });
  const checkAlive = (): void => {
    if (disposed) throw gone();
  };

  const scheduler = createScheduler({
    platform,
    cache,
    passTokens: plan.passTokens,
    passRows: plan.passRows,
    whole: config.causal === false,
    async run(batch, rows, output) {
      try {
        const tensor = architecture.forward(context, batch, rows, output);
        await backend.submit();
        return await backend.read(tensor);
      } catch (error) {
        // Whatever was recorded before the failure must not run as a part of the next pass.
        await backend.submit().catch(() => undefined);
        throw error;
      }
    },
  });

  const free = async (): Promise<void> => {
    await scheduler.close(gone());
    for (const weight of weights.linear.values()) backend.free(weight);
    for (const { tensor } of weights.vectors.values()) backend.free(tensor);
    backend.free(kv);
    await backend.dispose();
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
    step: (sequence, tokens, rows, output = "logits", signal = undefined) =>
      scheduler.step({ sequence, tokens, rows, output, signal }),
    canShift: architecture.keyTurn !== undefined && config.causal !== false,
    readPage: (page, count) => backend.readPage(kv, page, count),
    writePage: (page, count, bytes) => backend.writePage(kv, page, count, bytes),
    identity: () => (identity ??= modelIdentity(config, plan, weights)),
    status() {
      checkAlive();
      const { waiting, passes } = scheduler;
      const { running, freePages } = cache;
      const { usedBytes, heldBytes } = backend.memory();
      const books = { usedBytes, heldBytes: heldBytes + plan.hostBytes };
      return { running, waiting, passes, pages, freePages, ...books };
    },
    dispose() {
      disposed ??= free();
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
