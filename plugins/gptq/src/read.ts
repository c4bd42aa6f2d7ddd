import type { LinearWeight, PackedCheckpoint, PackedModules, SafetensorsTensor } from "@lowbit/core";
import {
  buildGrid,
  declaredMethod,
  floatFormats,
  type GridShape,
  type ModuleTensors,
  modulesWith,
  type OpenModule,
  openModules,
  readCodes,
} from "@lowbit/packing";
import { type GptqConfig, gptqConfig, gptqError, moduleConfig, refuseVariant, unitOf } from "./config.ts";
import { permutation } from "./order.ts";
import { readPlanes } from "./planes.ts";
import { constantOf, readZeros, type ZeroPoints, zeroPointsOf } from "./zeros.ts";

/** The declared method decides; without one, the names and shapes of tensors. */
export function detectGptq(checkpoint: PackedCheckpoint): number {
  const method = declaredMethod(checkpoint);
  if (method !== undefined) return method === "gptq" || method === "marlin" ? 1 : 0;
  const { tensors, quantizationFile } = checkpoint;
  for (const module of modulesWith(checkpoint, ".qweight")) {
    const order = tensors.get(`${module}.g_idx`);
    const words = tensors.get(`${module}.qweight`)?.shape[0] ?? 0;
    // AWQ packs along the outputs: as many rows of words as inputs.
    if (order)
      return order.shape[0] === words ? 0.3 : quantizationFile === "quantize_config.json" ? 0.9 : 0.6;
    if (quantizationFile === "quantize_config.json") return 0.7;
  }
  return repackedBy(checkpoint) ? 0.5 : 0;
}

/** Checks all shapes, and reads the zero points of a few modules to tell versions apart. */
export async function openGptq(checkpoint: PackedCheckpoint, signal?: AbortSignal): Promise<PackedModules> {
  const repacked = repackedBy(checkpoint);
  if (repacked) refuseVariant(checkpoint.name, repacked);
  const config = gptqConfig(checkpoint);
  const names = [...modulesWith(checkpoint, ".qweight")];
  const head = checkpoint.tensors.has("lm_head.qweight");
  if (config.head && !head && checkpoint.tensors.has("lm_head.weight")) {
    const what = `${checkpoint.name}: the configuration says that lm_head is quantized, but it is plain`;
    throw gptqError("invalid-config", what);
  }
  const zeroPoints = await zeroPointsOf(checkpoint, config, names, signal);
  const metadata = new Map<string, string | number | boolean>([
    ["bits", config.bits],
    ["group size", config.group],
    ["symmetric", config.symmetric],
    ["act order", config.actOrder],
    ["layout", config.format],
    ["zero points", zeroPoints.text],
  ]);
  if (config.overrides.length > 0) metadata.set("overrides", config.overrides.length);
  if (head) metadata.set("quantized head", true);
  const open = (tensors: ModuleTensors): OpenModule => openModule(tensors, config, zeroPoints);
  return openModules(checkpoint, "gptq", names, metadata, open, signal);
}

/** Kernels whose own layouts the tensors show. */
function repackedBy(checkpoint: PackedCheckpoint): string | undefined {
  for (const module of modulesWith(checkpoint, ".B")) {
    if (checkpoint.tensors.has(`${module}.s`)) return "marlin";
    if (checkpoint.tensors.has(`${module}.s_channel`)) return "qqq";
  }
  return undefined;
}

/** A module, checked. */
interface Module {
  readonly out: number;
  readonly columns: number;
  readonly shape: GridShape;
  readonly zeroPoints: ZeroPoints;
  readonly planar: boolean;
  readonly qweight: SafetensorsTensor;
  readonly qzeros: SafetensorsTensor;
  readonly scales: SafetensorsTensor;
  readonly order: SafetensorsTensor | undefined;
}

function openModule(tensors: ModuleTensors, config: GptqConfig, zeroPoints: ZeroPoints): OpenModule {
  const { where, checkpoint } = tensors;
  const own = moduleConfig(config, tensors.module, checkpoint.name);
  if (!own) {
    throw gptqError("invalid-config", `${where} has quantized tensors, but the configuration excludes it`);
  }
  const { bits } = own;
  const planar = config.format === "gptq_p";
  const qweight = tensors.need("qweight", ["I32", "U32"], [undefined, undefined]);
  const order = tensors.maybe("g_idx", ["I32"], [undefined]);
  const [words = 0, out = 0] = qweight.shape;
  const columns = (words * 32) / bits;
  const unit = unitOf(bits, config.format);
  if (columns % unit !== 0 || out % unit !== 0 || (order && order.shape[0] !== columns)) {
    const inputs = order ? `, g_idx [${order.shape[0]}]` : "";
    const found = `qweight [${words}, ${out}]${inputs}`;
    const what = `${where}: ${found} is not possible with ${bits} bits, inputs and outputs in multiples of ${unit}`;
    throw tensors.fail("shape-mismatch", what);
  }
  const group = own.group === -1 ? columns : Math.min(own.group, columns);
  const groups = Math.ceil(columns / group);
  const qzeros = tensors.need("qzeros", ["I32", "U32"], [groups, (out * bits) / 32]);
  const scales = tensors.need("scales", ["F16", "BF16", "F32"], [groups, out]);
  const zero = own.symmetric && zeroPoints.constant ? 2 ** (bits - 1) : ("integer" as const);
  const shape: GridShape = { bits, group, scale: floatFormats[scales.dtype as "F16"], zero };
  const module: Module = { out, columns, shape, zeroPoints, planar, qweight, qzeros, scales, order };
  const segments = buildGrid(0, columns, shape).segments.map(({ type, from, to }) => ({ type, from, to }));
  return tensors.open({ out, in: columns, segments }, (signal) => readModule(tensors, module, signal));
}

/** Rows that are gathered from the columns of words at a time, so that whole cache lines are used. */
const panelRows = 32;

async function readModule(
  tensors: ModuleTensors,
  { out, columns, shape, zeroPoints, planar, ...parts }: Module,
  signal: AbortSignal | undefined,
): Promise<Omit<LinearWeight, "out" | "in" | "experts">> {
  const [words, zeroWords, scales, index] = await Promise.all([
    tensors.words(parts.qweight, signal),
    tensors.words(parts.qzeros, signal),
    tensors.scaleBits(parts.scales, signal),
    parts.order && tensors.words(parts.order, signal),
  ]);
  const { bits, group } = shape;
  const permute = index && permutation(tensors.where, new Int32Array(index), group);
  const { version } = zeroPoints;
  const zeros = readZeros(zeroWords, { bits, groups: Math.ceil(columns / group), out, version, planar });
  const builder = buildGrid(out, columns, { ...shape, zero: zeroOf(tensors, zeros, shape) });
  const height = words.length / out;
  const panel = new Uint32Array(panelRows * height);
  const stored = new Uint8Array(columns);
  const sorted = permute ? new Uint8Array(columns) : stored;
  const rowScales = new Uint32Array(builder.groups);
  const rowZeros = new Uint8Array(builder.groups);
  for (let n = 0; n < out; n++) {
    const inPanel = n % panelRows;
    if (inPanel === 0) gather(words, out, n, panel);
    const stream = panel.subarray(inPanel * height, (inPanel + 1) * height);
    for (let g = 0, at = n; g < rowScales.length; g++, at += out) {
      rowScales[g] = scales[at]!;
      rowZeros[g] = zeros[at]!;
    }
    if (!planar && !permute) {
      builder.stream(n, stream, rowScales, rowZeros);
      continue;
    }
    if (planar) readPlanes(stream, { bits }, stored);
    else readCodes(stream, { bits }, stored);
    if (permute) for (let j = 0; j < columns; j++) sorted[j] = stored[permute[j]!]!;
    builder.row(n, sorted, rowScales, rowZeros);
  }
  return { segments: builder.segments, ...(permute && { permute }) };
}

/** Columns of words from `first` on become rows. */
function gather(words: Uint32Array, out: number, first: number, panel: Uint32Array): void {
  const height = words.length / out;
  const count = Math.min(panelRows, out - first);
  for (let w = 0, from = first; w < height; w++, from += out) {
    for (let p = 0, to = w; p < count; p++, to += height) panel[to] = words[from + p]!;
  }
}

/**
 * The described zero point where all have it. A symmetric module with others among a checkpoint's constant ones keeps them as
 * integers, unless all are off by one: then it is of the other version. Throws zero-point.
 */
function zeroOf({ where }: ModuleTensors, zeros: Uint8Array, { bits, zero }: GridShape): GridShape["zero"] {
  if (zero === "integer") return zero;
  const constant = constantOf(zeros);
  const middle = 2 ** (bits - 1);
  if (constant === undefined || Math.abs(constant - middle) > 1) return "integer";
  if (constant === middle) return middle;
  const what = `${where}: all zero points are ${constant}, where other symmetric modules have ${middle}`;
  throw gptqError("zero-point", what, {
    hint: "Parts of different checkpoints may have been mixed; fetch it again.",
  });
}
