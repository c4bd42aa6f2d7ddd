import {
  type Architecture,
  type Backend,
  type BackendFactory,
  type BackendOptions,
  type Checkpoint,
  type FileSet,
  type Format,
  LowbitError,
  type ModelConfig,
  type Platform,
  type Plugin,
} from "@lowbit/core";
import { listText } from "./text.ts";

/** Opens the files with the format that is surest of them. Throws `format-unsupported` naming what was tried. */
export async function openCheckpoint(
  plugins: readonly Plugin[],
  files: FileSet,
  signal: AbortSignal | undefined,
): Promise<Checkpoint> {
  let best: Format | undefined;
  let bestScore = 0;
  const tried: string[] = [];
  let failure: unknown;
  const formats = plugins.flatMap((plugin) => plugin.formats ?? []);
  for (const format of formats) {
    try {
      const score = await format.detect(files, signal);
      tried.push(format.name);
      if (score > bestScore) {
        best = format;
        bestScore = score;
      }
    } catch (error) {
      // One format's trouble must not hide that another knows the files; a missing file or an abort is everyone's.
      if (LowbitError.is(error) && (error.code === "aborted" || error.code === "not-found")) throw error;
      tried.push(`${format.name} (${error instanceof Error ? error.message : String(error)})`);
      failure ??= error;
    }
  }
  if (best) {
    return best.open(
      files,
      signal,
      plugins.flatMap((plugin) => plugin.packings ?? []),
    );
  }
  if (LowbitError.is(failure) && formats.length === 1) throw failure;
  throw new LowbitError("format-unsupported", `${files.name} is in no format known here.`, {
    reason: "unknown-format",
    hint:
      tried.length > 0
        ? `Tried: ${tried.join(", ")}. Add the format's plugin, or check that the file is a model.`
        : "No format plugins were given; pass plugins: [gguf()], for example.",
    cause: failure,
  });
}

/** Throws `architecture-unsupported` listing what is known. */
export function findArchitecture(
  architectures: readonly Architecture[],
  config: ModelConfig,
  name: string,
): Architecture {
  const found = architectures.find((architecture) => architecture.names.includes(config.architecture));
  if (found) return found;
  const known = architectures.flatMap((architecture) => architecture.names);
  throw new LowbitError(
    "architecture-unsupported",
    `${name} is a model of architecture ${JSON.stringify(config.architecture)}, which is not known here.`,
    {
      reason: "unknown-architecture",
      hint:
        known.length > 0 ? `Known are ${listText(known, 60)}.` : "No architectures were given to the engine.",
    },
  );
}

/** A backend, and why those that would have been preferred do not run here. */
export interface ChosenBackend {
  readonly backend: Backend;
  readonly unavailable: readonly string[];
}

/** The named backend, or the first that runs here. Throws `backend-unavailable` with every reason heard. */
export async function createBackend(
  factories: readonly BackendFactory[],
  wanted: string,
  platform: Platform,
  options: BackendOptions = {},
): Promise<ChosenBackend> {
  const candidates = wanted === "auto" ? factories : factories.filter((factory) => factory.name === wanted);
  const reasons: string[] = [];
  let cause: unknown;
  for (const factory of candidates) {
    try {
      const probe = await factory.probe(platform, options);
      if (probe.available) return { backend: await factory.create(platform, options), unavailable: reasons };
      reasons.push(`${factory.name}: ${probe.reason ?? "it gave no reason"}`);
    } catch (error) {
      // A backend that breaks while starting is as good as absent, but is named.
      cause ??= error;
      reasons.push(`${factory.name}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  const names = factories.map((factory) => factory.name);
  if (candidates.length === 0) {
    const what =
      wanted === "auto"
        ? "No backend was given to the engine."
        : `There is no backend ${JSON.stringify(wanted)}.`;
    throw new LowbitError("backend-unavailable", what, {
      reason: "unknown-backend",
      hint:
        names.length > 0 ? `Known are "auto", ${listText(names)}.` : "Pass backends: [wasm()], for example.",
    });
  }
  throw new LowbitError(
    "backend-unavailable",
    wanted === "auto" ? "No backend runs here." : `The backend ${JSON.stringify(wanted)} does not run here.`,
    { reason: "probe", hint: `${reasons.join("; ")}.`, cause },
  );
}
