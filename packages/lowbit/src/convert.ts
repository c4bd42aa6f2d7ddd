import {
  type ConversionProgress,
  type ConversionReport,
  convert as convertCheckpoint,
  type TargetOptions,
  writerFor,
} from "@lowbit/convert";
import { type Checkpoint, LowbitError, type OutputPlace, type Plugin } from "@lowbit/core";
import { type ModelLocation, tokenizerProbe } from "@lowbit/engine";
import { architectures } from "@lowbit/models";
import { outputPlace, platform } from "@lowbit/platform";
import { createTokenizer } from "@lowbit/tokenizers";
import { defaultEngine, defaultPlugins } from "./defaults.ts";

export interface ConvertOptions extends TargetOptions {
  /** A format or a packing: "gguf", "safetensors", "gptq", "awq", "exl2", "bitsandbytes", "compressed-tensors", "hqq". */
  to: string;
  /** Refuse to round: end at the first weight whose values would change. @default false */
  exact?: boolean;
  /** Replace what is there: a file, or a folder that holds a model and nothing else. @default false */
  overwrite?: boolean;
  /** Go on with what an interrupted run has left. @default true */
  resume?: boolean;
  /** Asked before this package's own. */
  plugins?: readonly Plugin[];
  signal?: AbortSignal;
  onProgress?: (progress: ConversionProgress) => void;
}

const known: ReadonlySet<string> = new Set([
  ...["to", "type", "maxFileBytes", "bits", "groupSize", "symmetric", "variant"],
  ...["exact", "overwrite", "resume", "plugins", "signal", "onProgress"],
]);

/**
 * Converts a model to another format or packing: one weight in memory at a time, with a report of what each lost. The output, a path or
 * a place of your own, gets its name only when it is whole; an interrupted run leaves `<output>.partial`, and the same call goes on.
 *
 * Throws what opening throws, `bad-argument` for choices that the target does not have and for an output that exists, `type-unsupported`
 * for weights that it cannot hold (with `exact`: not without rounding), and `aborted`.
 */
export async function convert(
  location: ModelLocation,
  output: string | URL | OutputPlace,
  options: ConvertOptions,
): Promise<ConversionReport> {
  const { to, exact, overwrite = false, resume, plugins = [], signal, onProgress, ...target } = options;
  for (const name of Object.keys(options)) {
    if (known.has(name)) continue;
    throw new LowbitError("bad-argument", `convert has no option ${JSON.stringify(name)}.`, {
      reason: "unknown-option",
      hint: `It knows ${[...known].join(", ")}.`,
    });
  }
  const place = await placeOf(output, overwrite, location);
  try {
    const source = await defaultEngine().open(location, { plugins, ...(signal && { signal }) });
    try {
      return await convertCheckpoint({
        source,
        architectures: [...plugins.flatMap((plugin) => plugin.architectures ?? []), ...architectures],
        target: await writerFor(
          [...plugins, ...defaultPlugins()],
          source,
          to,
          { ...target, ...probeOf(source) },
          signal,
        ),
        output: place,
        exact,
        resume,
        signal,
        onProgress,
        pause: () => platform().yield(),
      });
    } finally {
      await source.close();
    }
  } finally {
    await place.close();
  }
}

/** Nothing where the tokenizer is of a kind that is not run here: a model can be converted all the same. */
function probeOf({ tokenizer }: Checkpoint): Pick<TargetOptions, "tokenizerProbe"> {
  if (tokenizer === undefined) return {};
  try {
    return { tokenizerProbe: tokenizerProbe(createTokenizer(tokenizer)) };
  } catch (error) {
    if (LowbitError.is(error)) return {};
    throw error;
  }
}

function placeOf(
  output: string | URL | OutputPlace,
  overwrite: boolean,
  source: ModelLocation,
): Promise<OutputPlace> {
  if (typeof output !== "string" && !(output instanceof URL)) return Promise.resolve(output);
  return outputPlace(output, {
    overwrite,
    ...((typeof source === "string" || source instanceof URL) && { source }),
  });
}
