import {
  type Architecture,
  type Backend,
  type Checkpoint,
  type KvType,
  LowbitError,
  type ModelConfig,
  type Platform,
  type TokenizerSource,
  type WeightEntry,
} from "@lowbit/core";
import type { LoadOptions } from "./options.ts";
import { checkContext, checkPlan, type MemoryPlan, packable, planMemory } from "./plan.ts";
import { findArchitecture } from "./prepare.ts";
import { checkEntries, entriesByRole } from "./weights.ts";

export interface InspectedTensor extends WeightEntry {
  /** Kernel layout that the backend would give it; undefined without a backend, or if no kernel ever sees it. */
  readonly layout: string | undefined;
  /** Memory that it would take there; undefined if it would not be loaded. */
  readonly backendBytes: number | undefined;
}

/** What can be told about a model without reading its weights. */
export interface Inspection {
  readonly format: string;
  /** The format's own metadata. */
  readonly metadata: ReadonlyMap<string, unknown>;
  /** What a tokenizer can be built from. */
  readonly tokenizer: TokenizerSource | undefined;
  /** Absent for an architecture that the format does not know. */
  readonly config: ModelConfig | undefined;
  readonly parameters: number;
  readonly bitsPerWeight: number;
  readonly tensors: readonly InspectedTensor[];
  readonly backend: { readonly name: string; readonly description: string } | undefined;
  readonly plan: MemoryPlan | undefined;
  /** Whether and how it would run within other limits: those of `InspectOptions.limits`, by name. */
  readonly fits: Readonly<Record<string, Fit>>;
  /** Why it would not load, in the order of loading; empty if it would. */
  readonly problems: readonly LowbitError[];
}

export interface InspectOptions extends LoadOptions {
  /** Memory limits to plan for beside the platform's own, in bytes. */
  readonly limits?: Readonly<Record<string, number>>;
}

/** How a model would run where a limit holds. */
export interface Fit {
  readonly limitBytes: number;
  /** The plan with the best cache: with the longest context, and of those the more exact one. It may not fit. */
  readonly plan: MemoryPlan;
}

export async function inspectCheckpoint(
  checkpoint: Checkpoint,
  architectures: readonly Architecture[],
  platform: Platform,
  name: string,
  options: InspectOptions,
  createBackend: () => Promise<Backend>,
): Promise<Inspection> {
  const problems: LowbitError[] = [];
  const attempt = <T>(body: () => T): T | undefined => {
    try {
      return body();
    } catch (error) {
      if (!LowbitError.is(error)) throw error;
      problems.push(error);
      return undefined;
    }
  };
  const config = attempt(() => checkpoint.config);
  const architecture = config && attempt(() => findArchitecture(architectures, config, name));
  const specs = config && architecture ? architecture.weights(config) : [];
  const entries = entriesByRole(checkpoint);
  if (architecture) attempt(() => checkEntries(architecture, specs, checkpoint, entries, name));
  let backend: Backend | undefined;
  try {
    backend = await createBackend();
  } catch (error) {
    if (!LowbitError.is(error)) throw error;
    problems.push(error);
  }
  try {
    const here = backend;
    const { memoryLimitBytes } = platform;
    const makePlan = (
      changes: Pick<LoadOptions, "contextLength" | "kvCache" | "memoryLimitBytes">,
    ): MemoryPlan | undefined =>
      config && here && specs.length > 0
        ? planMemory(config, specs, entries, here, {
            sequences: options.sequences,
            ...changes,
            memoryLimitBytes: changes.memoryLimitBytes ?? memoryLimitBytes,
          })
        : undefined;
    const fitOf = (limitBytes: number): Fit[] => {
      const { contextLength, kvCache } = options;
      const types: KvType[] = kvCache ? [kvCache] : config && packable(config) ? ["f16", "q8_0"] : ["f16"];
      const plans = types.flatMap(
        (type) => makePlan({ contextLength, kvCache: type, memoryLimitBytes: limitBytes }) ?? [],
      );
      const [exact, packed] = plans;
      if (exact === undefined) return [];
      const better = packed?.fits && (!exact.fits || packed.contextLength > exact.contextLength);
      return [{ limitBytes, plan: packed && better ? packed : exact }];
    };
    if (config) attempt(() => checkContext(options.contextLength, config.contextLength));
    const { memoryLimitBytes: _, limits, ...rest } = options;
    const plan = attempt(() => makePlan(rest));
    const fits = Object.fromEntries(
      Object.entries(limits ?? {}).flatMap(([place, limit]) => fitOf(limit).map((fit) => [place, fit])),
    );
    if (plan && here) attempt(() => checkPlan(plan, name, here, (changes) => makePlan(changes) ?? plan));
    const planned = new Map(plan?.weights.map((weight) => [weight.role, weight]));
    const tensors = checkpoint.entries().map((entry): InspectedTensor => {
      const weight = entry.role === undefined ? undefined : planned.get(entry.role);
      return { ...entry, layout: weight?.layout, backendBytes: weight?.backendBytes };
    });
    return {
      format: checkpoint.format,
      metadata: checkpoint.metadata,
      tokenizer: checkpoint.tokenizer,
      config,
      ...sizesOf(checkpoint.entries()),
      tensors,
      backend: here && { name: here.name, description: here.description },
      plan,
      fits,
      problems,
    };
  } finally {
    await backend?.dispose();
  }
}

/** Number of weights, and bits that the file spends on each. */
export function sizesOf(entries: readonly WeightEntry[]): { parameters: number; bitsPerWeight: number } {
  let parameters = 0;
  let bytes = 0;
  for (const entry of entries) {
    parameters += entry.shape.reduce((product, size) => product * size, 1);
    bytes += entry.bytes;
  }
  return { parameters, bitsPerWeight: parameters > 0 ? (8 * bytes) / parameters : 0 };
}
