import { type PackedCheckpoint, readCodes, wordsFrom } from "@lowbit/core";
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

/** Modules looked into. */
const samples = 4;

/**
 * Tells the versions apart. A symmetric module has one zero point, 2^(bits−1), everywhere, so a stored constant of one less means version 1
 * and 2^(bits−1) itself version 2, whatever is declared: checkpoints are in use that declare the wrong one. Other zero points tell
 * nothing; then the declaration stands. Throws `file-corrupt`/zero-point where modules disagree.
 */
export async function decideVersion(
  checkpoint: PackedCheckpoint,
  config: GptqConfig,
  modules: readonly string[],
  signal: AbortSignal | undefined,
): Promise<{ readonly version: Version; readonly text: string }> {
  if (config.format === "gptq_p") return { version: 2, text: "plain" };
  const declared: Version = config.format === "gptq" ? 1 : 2;
  const step = Math.max(1, Math.floor(modules.length / samples));
  const found = new Map<Version, string>();
  for (let i = 0; i < modules.length && i / step < samples; i += step) {
    const module = modules[i]!;
    const tensor = checkpoint.tensors.get(`${module}.qzeros`);
    const own = moduleConfig(config, module, checkpoint.name);
    if (!tensor || !own || tensor.shape.length !== 2 || !["I32", "U32"].includes(tensor.dtype)) continue;
    const { bits } = own;
    const [groups = 0, perRow = 0] = tensor.shape;
    const out = (perRow * 32) / bits;
    if (groups < 1 || !Number.isInteger(out) || out < 1) continue;
    const words = wordsFrom(await checkpoint.read(tensor, signal));
    const stored = constantOf(readZeros(words, { bits, groups, out, version: 2, planar: false }));
    const middle = 2 ** (bits - 1);
    if (stored === middle - 1) found.set(1, module);
    else if (stored === middle) found.set(2, module);
  }
  if (found.size === 2) {
    const both = `${found.get(1)} has those of version 1, ${found.get(2)} those of version 2`;
    throw gptqError("zero-point", `${checkpoint.name}: zero points contradict each other: ${both}`, {
      hint: "Parts of different checkpoints may have been mixed; fetch it again.",
    });
  }
  const [seen] = found.keys();
  const label = { 1: "stored minus one (v1)", 2: "plain (v2)" };
  if (seen === undefined || seen === declared) return { version: declared, text: label[declared] };
  return { version: seen, text: `${label[seen]}, as the data show, although declared ${config.format}` };
}
