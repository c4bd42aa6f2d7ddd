import type { PackedCheckpoint } from "@lowbit/core";
import { readCodes, wordsFrom } from "@lowbit/packing";
import { type GptqConfig, gptqError, moduleConfig } from "./config.ts";
import { readPlanes } from "./planes.ts";

/** 1: the stored field is the zero point − 1, and wraps; 2: it is the zero point. */
export type Version = 1 | 2;

/** How the zero points of a module lie. */
export interface ZeroLayout {
  readonly bits: number;
  readonly groups: number;
  readonly out: number;
  readonly version: Version;
  readonly planar: boolean;
}

/**
 * Zero points [groups, out] of qzeros. Version 1 wraps as its packers and the masking readers have it: a stored 2^bits − 1 is the zero
 * point 0.
 */
export function readZeros(
  words: Uint32Array,
  { bits, groups, out, version, planar }: ZeroLayout,
): Uint8Array {
  const read = planar ? readPlanes : readCodes;
  const zeros = new Uint8Array(groups * out);
  const perRow = (out * bits) / 32;
  for (let g = 0; g < groups; g++) {
    read(words, { bits, at: g * perRow }, zeros.subarray(g * out, (g + 1) * out));
  }
  if (version === 1) {
    const mask = 2 ** bits - 1;
    for (let i = 0; i < zeros.length; i++) zeros[i] = (zeros[i]! + 1) & mask;
  }
  return zeros;
}

/** The value of all, if they are one. */
export function constantOf(zeros: Uint8Array): number | undefined {
  const [first] = zeros;
  return zeros.every((zero) => zero === first) ? first : undefined;
}

/** What was found out about the zero points of a checkpoint. */
export interface ZeroPoints {
  readonly version: Version;
  /** Modules that are declared symmetric have one zero point everywhere, as far as was looked. */
  readonly constant: boolean;
  /** For `inspect`. */
  readonly text: string;
}

/** Modules looked into. */
const samples = 4;

/**
 * Tells the versions apart. A symmetric module has one zero point, 2^(bits−1), everywhere, so a stored constant of one less means version 1
 * and 2^(bits−1) itself version 2, whatever is declared: checkpoints are in use that declare the wrong one. Zero points of modules that
 * are not symmetric tell nothing; then the declaration stands. Throws `file-corrupt`/zero-point where modules disagree.
 */
export async function zeroPointsOf(
  checkpoint: PackedCheckpoint,
  config: GptqConfig,
  modules: readonly string[],
  signal: AbortSignal | undefined,
): Promise<ZeroPoints> {
  const declared: Version = config.format === "gptq" ? 1 : 2;
  const found = new Map<Version, string>();
  let constant = true;
  for (const module of spread(modules, samples)) {
    const stored = await storedConstant(checkpoint, config, module, signal);
    if (stored === undefined) continue;
    const { middle, value } = stored;
    constant &&= value !== undefined;
    if (value === middle - 1) found.set(1, module);
    else if (value === middle) found.set(2, module);
  }
  if (found.size === 2) {
    const both = `${found.get(1)} has those of version 1, ${found.get(2)} those of version 2`;
    throw gptqError("zero-point", `${checkpoint.name}: zero points contradict each other: ${both}`, {
      hint: "Parts of different checkpoints may have been mixed; fetch it again.",
    });
  }
  const [version = declared] = found.keys();
  const known = version === 1 ? "stored minus one (v1)" : "stored as they are (v2)";
  const wrong = version === declared ? "" : `, although declared ${declared === 1 ? "v1" : "v2"}`;
  const differ = constant ? "" : ", not all the middle, although declared symmetric";
  return { version, constant, text: `${known}${wrong}${differ}` };
}

/** Some of the items, evenly spread. */
function spread<T>(items: readonly T[], count: number): readonly T[] {
  const step = Math.max(1, items.length / count);
  return items.filter((_, i) => Math.floor(i / step) !== Math.floor((i - 1) / step));
}

/** What all fields of a symmetric module hold, if it is one value; undefined where a module is not symmetric or no zero points fit. */
async function storedConstant(
  checkpoint: PackedCheckpoint,
  config: GptqConfig,
  module: string,
  signal: AbortSignal | undefined,
): Promise<{ readonly middle: number; readonly value: number | undefined } | undefined> {
  const tensor = checkpoint.tensors.get(`${module}.qzeros`);
  const own = moduleConfig(config, module, checkpoint.name);
  if (!own?.symmetric || tensor?.shape.length !== 2 || !["I32", "U32"].includes(tensor.dtype))
    return undefined;
  const { bits } = own;
  const [groups = 0, perRow = 0] = tensor.shape;
  const out = (perRow * 32) / bits;
  // What does not fit is refused when the module is opened.
  if (groups < 1 || out < 1 || out % (32 % bits === 0 ? 1 : 32) !== 0) return undefined;
  const planar = config.format === "gptq_p";
  const words = wordsFrom(await checkpoint.read(tensor, signal));
  const value = constantOf(readZeros(words, { bits, groups, out, version: 2, planar }));
  return { middle: 2 ** (bits - 1), value };
}
