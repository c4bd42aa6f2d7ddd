import {
  buildGrid,
  declaredMethod,
  type GridShape,
  gridType,
  type LinearWeight,
  type ModuleTensors,
  modulesWith,
  type OpenModule,
  openModules,
  type PackedCheckpoint,
  type PackedModules,
  readCodes,
  type SafetensorsTensor,
  type SegmentOutline,
} from "@lowbit/core";
import { type GptqConfig, gptqConfig, gptqError, type ModuleConfig, moduleConfig } from "./config.ts";
import { readPlanes } from "./planes.ts";
import { constantOf, decideVersion, readZeros, type Version } from "./zeros.ts";

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
  return [...modulesWith(checkpoint, ".B")].some((module) => tensors.has(`${module}.s`)) ? 0.5 : 0;
}

/** Checks all shapes, and reads the zero points of a few modules to tell versions apart. */
export async function openGptq(checkpoint: PackedCheckpoint, signal?: AbortSignal): Promise<PackedModules> {
  const config = gptqConfig(checkpoint);
  const names = [...modulesWith(checkpoint, ".qweight")];
  const version = await decideVersion(checkpoint, config, names, signal);
  const metadata = new Map<string, string | number | boolean>([
    ["bits", config.bits],
    ["group size", config.group],
    ["symmetric", config.symmetric],
    ["act order", config.actOrder],
    ["layout", config.format],
    ["zero points", version.text],
  ]);
  if (config.overrides.length > 0) metadata.set("overrides", config.overrides.length);
  return openModules(
    checkpoint,
    "gptq",
    names,
    metadata,
    (tensors) => openModule(tensors, config, version.version),
    signal,
  );
}

/** A module's tensors, checked. */
interface Parts {
  readonly qweight: SafetensorsTensor;
  readonly qzeros: SafetensorsTensor;
  readonly scales: SafetensorsTensor;
  readonly order: SafetensorsTensor | undefined;
}

function openModule(tensors: ModuleTensors, config: GptqConfig, version: Version): OpenModule {
  const { module, where, checkpoint } = tensors;
  const own = moduleConfig(config, module, checkpoint.name);
  if (!own) {
    throw gptqError("invalid-config", `${where} has quantized tensors, but the configuration excludes it`);
  }
  const { bits } = own;
  const qweight = tensors.need("qweight", ["I32", "U32"], [undefined, undefined]);
  const order = tensors.maybe("g_idx", ["I32"], [undefined]);
  const [words = 0, out = 0] = qweight.shape;
  const columns = (words * 32) / bits;
  const shapes = `qweight [${qweight.shape.join(", ")}] of ${bits} bits`;
  if (!Number.isInteger(columns) || (order && order.shape[0] !== columns)) {
    const inputs = order ? `g_idx has ${order.shape[0]} inputs` : `${columns} inputs are no whole number`;
    throw tensors.fail("shape-mismatch", `${where}: ${shapes} does not fit: ${inputs}`);
  }
  if ((out * bits) % 32 !== 0) {
    throw tensors.fail("shape-mismatch", `${where}: ${out} outputs of ${bits} bits do not fill words`);
  }
  const group = own.group === -1 ? columns : Math.min(own.group, columns);
  const groups = Math.ceil(columns / group);
  const qzeros = tensors.need("qzeros", ["I32", "U32"], [groups, (out * bits) / 32]);
  const scales = tensors.need("scales", ["F16", "BF16", "F32"], [groups, out]);
  const zero = own.symmetric ? 2 ** (bits - 1) : ("integer" as const);
  const shape: GridShape = { bits, group, scale: scaleFormat(scales), zero };
  const parts: Parts = { qweight, qzeros, scales, order };
  return tensors.open({ out, in: columns, segments: outline(columns, shape) }, (signal) =>
    readModule(tensors, parts, { ...own, group }, config.format === "gptq_p", version, out, columns, signal),
  );
}

function scaleFormat({ dtype }: SafetensorsTensor): "f16" | "bf16" | "f32" {
  return dtype === "F32" ? "f32" : dtype === "BF16" ? "bf16" : "f16";
}

/** The segments of a grid: a last group that is short is one of its own. */
function outline(columns: number, shape: GridShape): SegmentOutline[] {
  const whole = Math.floor(columns / shape.group) * shape.group;
  const segments: SegmentOutline[] = [{ type: gridType(shape), from: 0, to: whole }];
  if (whole < columns) {
    segments.push({ type: gridType({ ...shape, group: columns - whole }), from: whole, to: columns });
  }
  return segments;
}

async function readModule(
  tensors: ModuleTensors,
  { qweight, qzeros, scales: scaleTensor, order }: Parts,
  { bits, group, symmetric }: ModuleConfig,
  planar: boolean,
  version: Version,
  out: number,
  columns: number,
  signal: AbortSignal | undefined,
): Promise<Omit<LinearWeight, "out" | "in" | "experts">> {
  const [words, zeroWords, scaleBits, index] = await Promise.all([
    tensors.words(qweight, signal),
    tensors.words(qzeros, signal),
    tensors.scaleBits(scaleTensor, signal),
    order && tensors.words(order, signal),
  ]);
  const groups = Math.ceil(columns / group);
  const permute = index && permutation(tensors, new Int32Array(index), group, groups);
  const read = planar ? readPlanes : readCodes;
  const zeros = readZeros(zeroWords, { bits, groups, out, version, planar });
  const constant = constantOf(zeros);
  const middle = 2 ** (bits - 1);
  if (symmetric && constant !== undefined && constant !== middle) {
    const found = `all its zero points are ${constant}, not ${middle} as in the other modules`;
    throw tensors.fail("zero-point", `${tensors.where} is symmetric, but ${found}`);
  }
  const zero = symmetric && constant === middle ? middle : "integer";
  const builder = buildGrid(out, columns, { bits, group, scale: scaleFormat(scaleTensor), zero });
  const stored = new Uint8Array(columns);
  const sorted = permute ? new Uint8Array(columns) : stored;
  const rowScales = new Uint32Array(groups);
  const rowZeros = new Uint8Array(groups);
  for (let n = 0; n < out; n++) {
    read(words, { bits, at: n, stride: out }, stored);
    if (permute) for (let j = 0; j < columns; j++) sorted[j] = stored[permute[j]!]!;
    for (let g = 0; g < groups; g++) {
      rowScales[g] = scaleBits[g * out + n]!;
      rowZeros[g] = zeros[g * out + n]!;
    }
    builder.row(n, sorted, rowScales, rowZeros);
  }
  return { segments: builder.segments, ...(permute && { permute }) };
}

/**
 * The inputs in the order of their groups; undefined where they are in it already. Each group must have its number of inputs, for
 * nothing else can be meant. Throws invalid-index.
 */
function permutation(
  { where }: ModuleTensors,
  index: Int32Array,
  group: number,
  groups: number,
): Int32Array | undefined {
  const columns = index.length;
  const next = Int32Array.from({ length: groups }, (_, g) => g * group);
  const permute = new Int32Array(columns);
  for (let k = 0; k < columns; k++) {
    const g = index[k]!;
    if (g < 0 || g >= groups) {
      throw gptqError("invalid-index", `${where}: g_idx[${k}] is ${g}; there are ${groups} groups`);
    }
    const to = next[g]!;
    if (to >= Math.min((g + 1) * group, columns)) {
      throw gptqError("invalid-index", `${where}: g_idx puts more than ${group} inputs into group ${g}`);
    }
    next[g] = to + 1;
    permute[to] = k;
  }
  return permute.every((k, j) => k === j) ? undefined : permute;
}
