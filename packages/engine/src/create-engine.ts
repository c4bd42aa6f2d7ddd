import type {
  Architecture,
  Backend,
  BackendFactory,
  Checkpoint,
  CreateGrammar,
  FileSet,
  Platform,
  Plugin,
  Tokenizer,
  TokenizerSource,
} from "@lowbit/core";
import { throwIfAborted } from "@lowbit/core";
import { draftOf } from "./draft.ts";
import { filesOf, type ModelLocation } from "./files.ts";
import { type Inspection, type InspectOptions, inspectCheckpoint, sizesOf } from "./inspect.ts";
import { createModel, type Model, type ModelInfo } from "./model.ts";
import { checkLoadOptions, type LoadOptions } from "./options.ts";
import { checkContext, checkPlan, type MemoryPlan, planMemory } from "./plan.ts";
import { createBackend, findArchitecture, openCheckpoint } from "./prepare.ts";
import { createRunner } from "./runner.ts";
import { checkLogits, checkTokenizer } from "./self-check.ts";
import { checkEntries, entriesByRole, loadWeights } from "./weights.ts";

export interface EngineOptions {
  platform: Platform;
  /** In order of preference. A plugin's come after these. */
  backends?: readonly BackendFactory[];
  /** Formats are asked in this order; the surest wins, the first of equals. */
  plugins?: readonly Plugin[];
  architectures?: readonly Architecture[];
  /** Builds the tokenizer that a checkpoint describes. Absent: models take and give token ids only. */
  createTokenizer?: (source: TokenizerSource) => Tokenizer;
  /** Keeps answers in a form, and takes calls and reasoning out of them. Absent: answers are text, and no form can be asked for. */
  createGrammar?: CreateGrammar;
}

/** Loads models with the parts it was given. It holds no state: any number may live side by side. */
export interface Engine {
  /** Opens, plans and loads. On any failure all files are closed and all memory is freed. */
  load(location: ModelLocation, options?: LoadOptions): Promise<Model>;
  /** Opens and plans, reading no weight; for a model that cannot run here, too. */
  inspect(location: ModelLocation, options?: InspectOptions): Promise<Inspection>;
  /** Opens with the format that is surest, as `load` does, for whoever wants the weights themselves; the caller closes it. */
  open(location: ModelLocation, options?: Pick<LoadOptions, "plugins" | "signal">): Promise<Checkpoint>;
}

/** What of engine and plugins one load works with. */
interface Parts {
  readonly plugins: readonly Plugin[];
  readonly backends: readonly BackendFactory[];
  readonly architectures: readonly Architecture[];
}

export function createEngine(engine: EngineOptions): Engine {
  const { platform } = engine;
  const partsFor = (options: LoadOptions): Parts => {
    const plugins = [...(options.plugins ?? []), ...(engine.plugins ?? [])];
    return {
      plugins,
      backends: [...(engine.backends ?? []), ...plugins.flatMap((plugin) => plugin.backends ?? [])],
      architectures: [
        ...(options.plugins ?? []).flatMap((plugin) => plugin.architectures ?? []),
        ...(engine.architectures ?? []),
        ...(engine.plugins ?? []).flatMap((plugin) => plugin.architectures ?? []),
      ],
    };
  };

  const open = async (
    location: ModelLocation,
    options: LoadOptions,
    parts: Parts,
  ): Promise<[FileSet, Checkpoint]> => {
    checkLoadOptions(options);
    throwIfAborted(options.signal);
    options.onProgress?.({ phase: "open", doneBytes: 0, totalBytes: 0 });
    const files = await filesOf(location, platform, options.signal);
    return [files, await openCheckpoint(parts.plugins, files, options.signal)];
  };

  return {
    async load(location, options = {}) {
      const parts = partsFor(options);
      const [files, checkpoint] = await open(location, options, parts);
      try {
        return await loadCheckpoint(engine, parts, files.name, checkpoint, options);
      } finally {
        await checkpoint.close();
      }
    },
    async inspect(location, { limits, ...options } = {}) {
      const parts = partsFor(options);
      const [files, checkpoint] = await open(location, options, parts);
      const place = withLimit(platform, options);
      try {
        return await inspectCheckpoint(
          checkpoint,
          parts.architectures,
          place,
          files.name,
          { ...options, ...(limits && { limits }) },
          async () => (await createBackend(parts.backends, options.backend ?? "auto", place)).backend,
        );
      } finally {
        await checkpoint.close();
      }
    },
    async open(location, options = {}) {
      const [, checkpoint] = await open(location, options, partsFor(options));
      return checkpoint;
    },
  };
}

async function loadCheckpoint(
  { platform, createTokenizer, createGrammar }: EngineOptions,
  parts: Parts,
  name: string,
  checkpoint: Checkpoint,
  options: LoadOptions,
): Promise<Model> {
  const { config } = checkpoint;
  const architecture = findArchitecture(parts.architectures, config, name);
  const specs = architecture.weights(config);
  const entries = entriesByRole(checkpoint);
  checkEntries(architecture, specs, checkpoint, entries, name);
  // Before the weights: a tokenizer that cannot be built should not cost a download.
  const tokenizer = checkpoint.tokenizer && createTokenizer?.(checkpoint.tokenizer);
  if (tokenizer) checkTokenizer(tokenizer, checkpoint, name);
  const draft = options.draft && draftOf(options.draft, config, tokenizer);
  const place = withLimit(platform, options);
  const { backend, unavailable } = await createBackend(parts.backends, options.backend ?? "auto", place, {
    threads: options.threads,
    weightBytes: checkpoint.entries().reduce((total, { bytes }) => total + bytes, 0),
  });
  try {
    const makePlan = (changes: Pick<LoadOptions, "contextLength" | "kvCache">): MemoryPlan =>
      planMemory(config, specs, entries, backend, {
        memoryLimitBytes: place.memoryLimitBytes,
        sequences: options.sequences,
        ...changes,
      });
    const { contextLength, kvCache } = options;
    checkContext(contextLength, config.contextLength);
    const plan = makePlan({ contextLength, kvCache });
    checkPlan(plan, name, backend, makePlan);
    const kv = backend.kv(plan.kv);
    const weights = await loadWeights(specs, plan, checkpoint, backend, platform, options);
    const runner = createRunner({ platform, backend, architecture, config, plan, kv, weights });
    if (options.selfCheck !== false) await checkLogits(runner, tokenizer, name);
    const info = { ...modelInfo(checkpoint, architecture, backend, plan), unavailable };
    const totalBytes = plan.weights.reduce((total, weight) => total + weight.fileBytes, 0);
    options.onProgress?.({ phase: "ready", doneBytes: totalBytes, totalBytes });
    const grammar = tokenizer && createGrammar?.(tokenizer);
    return createModel({ runner, tokenizer, grammar, draft, info });
  } catch (error) {
    await backend.dispose();
    throw error;
  }
}

function modelInfo(
  checkpoint: Checkpoint,
  architecture: Architecture,
  backend: Backend,
  plan: MemoryPlan,
): Omit<ModelInfo, "unavailable"> {
  const { config, format } = checkpoint;
  return {
    name: config.name,
    format,
    architecture: architecture.id,
    ...sizesOf(checkpoint.entries()),
    contextLength: plan.contextLength,
    vocabularySize: config.vocabularySize,
    embeddingSize: config.embeddingSize,
    backend: backend.name,
    backendDescription: backend.description,
    plan,
  };
}

/** The platform with the caller's limit, so that the backend is made for it too. */
function withLimit(platform: Platform, { memoryLimitBytes }: LoadOptions): Platform {
  if (memoryLimitBytes === undefined) return platform;
  return {
    name: platform.name,
    files: (location, signal) => platform.files(location, signal),
    wasm: (url, signal) => platform.wasm(url, signal),
    now: () => platform.now(),
    yield: () => platform.yield(),
    ...(platform.threads && { threads: platform.threads }),
    memoryLimitBytes,
  };
}
