import type { PackedCheckpoint, PackedModules, Packing, SafetensorsTensor } from "@lowbit/core";
import { safetensorsError } from "./errors.ts";

/** Modules of a checkpoint and the packing that reads them. */
export interface OpenedPacking {
  readonly packing: Packing;
  readonly modules: PackedModules;
}

/** A packing that is this sure goes by what the files declare. */
const declaredScore = 0.9;

/** Methods whose plugins have other names, or that none of this project's plugins read. */
const plugins: Readonly<Record<string, string>> = {
  gptq: "@lowbit/gptq",
  marlin: "@lowbit/gptq",
  awq: "@lowbit/awq",
  exl2: "@lowbit/exl2",
  bitsandbytes: "@lowbit/bitsandbytes",
  "compressed-tensors": "@lowbit/compressed-tensors",
  modelopt: "@lowbit/compressed-tensors",
  fp8: "@lowbit/compressed-tensors",
  mxfp4: "@lowbit/compressed-tensors",
  hqq: "@lowbit/hqq",
};

/** Methods that quantize plain weights as the model runs, so that reading them as they are would be another model. */
const atRunTime: readonly string[] = ["bitnet"];

/**
 * Opens with the packing that is surest; undefined where all weights are plain numbers, whatever is declared. Throws
 * `format-unsupported` (unknown-quantization, ambiguous-quantization), and what the packing's `open` throws.
 */
export async function openPacking(
  checkpoint: PackedCheckpoint,
  packings: readonly Packing[],
  signal: AbortSignal | undefined,
): Promise<OpenedPacking | undefined> {
  const method = declaredMethod(checkpoint);
  const plain = [...checkpoint.tensors.values()].every(isPlain);
  if (plain && !(method !== undefined && atRunTime.includes(method))) return undefined;
  const [best, second] = packings
    .map((packing) => ({ packing, score: packing.detect(checkpoint) }))
    .filter(({ score }) => score > 0)
    .sort((a, b) => b.score - a.score);
  if (method !== undefined && (best === undefined || best.score < declaredScore)) {
    throw unknownMethod(checkpoint, method, packings);
  }
  if (best === undefined) return undefined;
  if (second?.score === best.score) {
    const what = `${checkpoint.name} looks like ${best.packing.name} as much as like ${second.packing.name}.`;
    throw safetensorsError("format-unsupported", "ambiguous-quantization", what, {
      hint: 'Say how it is quantized: put "quantization_config" with its "quant_method" into config.json.',
    });
  }
  return { packing: best.packing, modules: await best.packing.open(checkpoint, signal) };
}

/** The `quant_method` in lower case. */
function declaredMethod({ quantization }: PackedCheckpoint): string | undefined {
  const method = quantization instanceof Map ? quantization.get("quant_method") : undefined;
  return typeof method === "string" ? method.toLowerCase() : undefined;
}

function unknownMethod(checkpoint: PackedCheckpoint, method: string, packings: readonly Packing[]): Error {
  const known = packings.map(({ name }) => name).join(", ") || "none";
  const plugin = Object.hasOwn(plugins, method) ? plugins[method] : undefined;
  const what = `${checkpoint.name} is quantized by ${JSON.stringify(method)}, which is not known here.`;
  const advice = plugin
    ? `Add the plugin ${plugin}.`
    : "Add a plugin that reads it, or use the model in one of these.";
  return safetensorsError("format-unsupported", "unknown-quantization", what, {
    hint: `Known are: ${known}. ${advice}`,
  });
}

const plainDtypes: ReadonlySet<string> = new Set(["F64", "F32", "F16", "BF16", "I64", "BOOL"]);

/** A number for each weight, and nothing that would scale it. */
function isPlain({ dtype, name }: SafetensorsTensor): boolean {
  return plainDtypes.has(dtype) && !/(scale|scales|scale_inv|zero_point|zeros|absmax|SCB)$/.test(name);
}
