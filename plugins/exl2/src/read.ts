import type {
  JsonValue,
  LinearWeight,
  PackedCheckpoint,
  PackedModules,
  SafetensorsDtype,
  SafetensorsTensor,
  WeightSegment,
} from "@lowbit/core";
import {
  declaredMethod,
  halvesFrom,
  type ModuleTensors,
  modulesWith,
  type OpenModule,
  openModules,
  wordsFrom,
} from "@lowbit/packing";
import { copySpan, fail, readGroups, type Span, scaleTable } from "./layout.ts";

/** The declared method decides; without one, the names of tensors. */
export function detectExl2(checkpoint: PackedCheckpoint): number {
  const method = declaredMethod(checkpoint);
  if (method !== undefined) return method === "exl2" ? 1 : 0;
  for (const module of modulesWith(checkpoint, ".q_weight")) {
    if (checkpoint.tensors.has(`${module}.q_scale_max`)) return 0.5;
  }
  return 0;
}

/** Reads and checks the table of groups of every module. Permutations and scales are checked as each weight is read. */
export async function openExl2(checkpoint: PackedCheckpoint, signal?: AbortSignal): Promise<PackedModules> {
  const metadata = metadataOf(checkpoint.quantization);
  const widths = new Set<number>();
  const open = async (tensors: ModuleTensors): Promise<OpenModule> => {
    const { module, spans } = await openModule(tensors, signal);
    for (const { bits } of spans) widths.add(bits);
    return module;
  };
  const names = modulesWith(checkpoint, ".q_weight");
  const modules = await openModules(checkpoint, "exl2", names, metadata, open, signal);
  metadata.set("code bits", [...widths].sort((a, b) => a - b).join(", "));
  return modules;
}

function metadataOf(quantization: JsonValue | undefined): Map<string, string | number | boolean> {
  const metadata = new Map<string, string | number | boolean>();
  for (const [key, label] of [
    ["version", "version"],
    ["bits", "bits per weight, declared"],
    ["head_bits", "head bits, declared"],
  ] as const) {
    const value = quantization instanceof Map ? quantization.get(key) : undefined;
    if (typeof value === "string" || typeof value === "number") metadata.set(label, value);
  }
  return metadata;
}

const wordTypes: readonly SafetensorsDtype[] = ["I32", "U32"];
const indexTypes: readonly SafetensorsDtype[] = ["I32", "I16"];

async function openModule(
  tensors: ModuleTensors,
  signal: AbortSignal | undefined,
): Promise<{ module: OpenModule; spans: readonly Span[] }> {
  const { checkpoint, where } = tensors;
  const weight = tensors.need("q_weight", wordTypes, [undefined, undefined]);
  const [words, padded] = weight.shape as [number, number];
  const inverse = tensors.maybe("q_invperm", indexTypes, [undefined]);
  const forward = tensors.maybe("q_perm", indexTypes, [inverse?.shape[0]]);
  const columns = (inverse ?? forward)?.shape[0];
  if (columns === undefined) throw fail("missing-tensor", `${where} has neither q_invperm nor q_perm`);
  const maxima = tensors.need("q_scale_max", ["F16"], [undefined]);
  const groups = maxima.shape[0]!;
  const scale = tensors.need("q_scale", wordTypes, [groups, padded / 8]);
  const table = tensors.need("q_groups", ["I16", "U16"], [2 * groups]);
  const spans = readGroups(where, halvesFrom(await checkpoint.read(table, signal)), words, columns);
  const out = outputs(tensors, padded);
  const segments = spans.map(({ type, from, to }) => ({ type, from, to }));
  const module = tensors.open({ out, in: columns, segments }, async (signal) => {
    const [codes, scales, tops, inverseOrder, order] = await Promise.all([
      tensors.words(weight, signal),
      tensors.words(scale, signal),
      tensors.scaleBits(maxima, signal),
      inverse && indices(checkpoint, inverse, signal),
      forward && indices(checkpoint, forward, signal),
    ]);
    const permute = permutation(where, columns, inverseOrder, order);
    return {
      segments: spans.map((span) => readSpan(span, codes, padded, scales, tops, out)),
      ...(permute && { permute }),
      // Below 2^-6 several maxima make the same scales.
      provenance: { exl2: { scaleMax: [...tops] } },
    } satisfies Partial<LinearWeight>;
  });
  return { module, spans };
}

function readSpan(
  span: Span,
  words: Uint32Array,
  padded: number,
  codes: Uint32Array,
  maxima: ArrayLike<number>,
  out: number,
): WeightSegment {
  const { groups, firstGroup, size, type, from, to } = span;
  const scales = new Uint16Array(groups * out);
  for (let g = 0; g < groups; g++) {
    const table = scaleTable(maxima[firstGroup + g]!);
    const at = ((firstGroup + g) * padded) / 8;
    for (let n = 0; n < out; n++) {
      scales[g * out + n] = table[(codes[at + (n >> 3)]! >>> (4 * (n & 7))) & 15]!;
    }
  }
  const blocks = new Uint8Array(out * groups * (size / type.block) * type.bytes);
  copySpan(span, words, padded, blocks, out, scales, "to-blocks");
  return { type, from, to, blocks };
}

/**
 * Outputs without the filling up to 32. The module itself tells them only by its bias; a head has as many as the embedding has rows.
 * Otherwise they are taken for full: sizes of layers are multiples of 32.
 */
function outputs({ checkpoint, module }: ModuleTensors, padded: number): number {
  const fits = (size: number): boolean => size > padded - 32 && size <= padded;
  const bias = checkpoint.tensors.get(`${module}.bias`)?.shape;
  // A bias of another shape is refused when the module is put together.
  if (bias) return fits(bias[0] ?? 0) ? bias[0]! : padded;
  if (!/(^|\.)lm_head$/.test(module)) return padded;
  for (const { name, shape } of checkpoint.tensors.values()) {
    if (shape.length === 2 && /(^|\.)(embed_tokens|wte|embed_in)\.weight$/.test(name) && fits(shape[0]!)) {
      return shape[0]!;
    }
  }
  return padded;
}

/** Input of each column: the inverse of q_invperm. Undefined where it is the identity. */
function permutation(
  where: string,
  columns: number,
  inverse: Int32Array | undefined,
  forward: Int32Array | undefined,
): Int32Array | undefined {
  const permute = new Int32Array(columns).fill(-1);
  const source = inverse ?? forward!;
  for (let k = 0; k < columns; k++) {
    const j = source[k]!;
    if (j < 0 || j >= columns || permute[j] !== -1) {
      throw fail(
        "invalid-permutation",
        `${where}: entry ${k} of its permutation, ${j}, is out of range or there twice`,
      );
    }
    permute[j] = k;
  }
  const result = inverse ? permute : source;
  if (inverse && forward?.some((k, j) => k !== permute[j])) {
    throw fail("invalid-permutation", `${where}: q_perm is not the inverse of q_invperm`);
  }
  return result.every((k, j) => k === j) ? undefined : result;
}

/** Indices as i32; 16-bit ones are unsigned. */
async function indices(
  checkpoint: PackedCheckpoint,
  tensor: SafetensorsTensor,
  signal: AbortSignal | undefined,
): Promise<Int32Array> {
  const bytes = await checkpoint.read(tensor, signal);
  return tensor.dtype === "I16" ? Int32Array.from(halvesFrom(bytes)) : new Int32Array(wordsFrom(bytes));
}
