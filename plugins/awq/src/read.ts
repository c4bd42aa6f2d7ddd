import type {
  LinearWeight,
  PackedCheckpoint,
  PackedModules,
  SafetensorsTensor,
  SegmentOutline,
} from "@lowbit/core";
import {
  buildGrid,
  declaredMethod,
  type GridShape,
  gridType,
  type ModuleTensors,
  modulesWith,
  type OpenModule,
  openModules,
  wordsFrom,
} from "@lowbit/packing";
import { type AwqConfig, awqConfig, awqError } from "./config.ts";
import { type Outline, panelRows, readPanel, readZero, scaleAt, shapesOf, zeroWords } from "./layout.ts";

/** The declared method decides; without one, the names and shapes of tensors. */
export function detectAwq(checkpoint: PackedCheckpoint): number {
  const method = declaredMethod(checkpoint);
  if (method !== undefined) return method === "awq" ? 1 : 0;
  const { tensors, quantizationFile } = checkpoint;
  for (const module of modulesWith(checkpoint, ".qweight")) {
    if (tensors.has(`${module}.g_idx`)) return 0;
    if (quantizationFile === "quant_config.json") return 0.9;
    const [, words] = tensors.get(`${module}.qweight`)?.shape ?? [];
    const [, out] = tensors.get(`${module}.scales`)?.shape ?? [];
    return words !== undefined && out === 8 * words ? 0.6 : 0.2;
  }
  return 0;
}

export async function openAwq(checkpoint: PackedCheckpoint, signal?: AbortSignal): Promise<PackedModules> {
  const config = awqConfig(checkpoint);
  const metadata = new Map<string, string | number | boolean>([
    ["bits", 4],
    ["group size", config.group],
    ["layout", config.layout],
  ]);
  const names = modulesWith(checkpoint, ".qweight");
  return openModules(checkpoint, "awq", names, metadata, (tensors) => openModule(tensors, config), signal);
}

function openModule(tensors: ModuleTensors, config: AwqConfig): OpenModule {
  const { where, checkpoint, module } = tensors;
  const { layout, group: declared } = config;
  if (config.plain.some((part) => module.split(".").includes(part) || module === part)) {
    throw awqError("invalid-config", `${where} has quantized tensors, but the configuration excludes it`);
  }
  if (checkpoint.tensors.has(`${module}.scales2`)) {
    throw tensors.fail("unsupported-variant", `${where} is in a layout of llm-awq`, "format-unsupported");
  }
  const fast = layout === "gemv_fast";
  const qweight = tensors.need("qweight", fast ? ["I16", "U16"] : ["I32", "U32"], [undefined, undefined]);
  const [rows = 0, width = 0] = qweight.shape;
  const out = layout === "gemm" ? 8 * width : layout === "gemv" ? rows : 4 * rows;
  const columns = layout === "gemm" ? rows : layout === "gemv" ? 8 * width : width;
  const group = declared === -1 ? columns : Math.min(declared, columns);
  if (columns % group !== 0 || (fast && columns % 64 !== 0)) {
    const what = `${where}: ${columns} inputs are no whole groups of ${group}${fast ? " and tiles of 64" : ""}`;
    throw tensors.fail("shape-mismatch", what);
  }
  const outline: Outline = { out, columns, groups: columns / group, words: zeroWords(columns, group) };
  const shapes = shapesOf(layout, outline);
  const qzeros = tensors.need("qzeros", fast ? ["F16"] : ["I32", "U32"], shapes.qzeros);
  const scales = tensors.need("scales", fast ? ["F16"] : ["F16", "BF16", "F32"], shapes.scales);
  const scale = scales.dtype === "F32" ? "f32" : scales.dtype === "BF16" ? "bf16" : "f16";
  const shape: GridShape = fast
    ? { bits: 4, group, scale, zero: 0, min: "f16" }
    : { bits: 4, group, scale, zero: "integer" };
  // GELU layers whose activations are divided by factors of their own.
  const scaled = module.replace(/\.[^.]+$/, ".act.scales");
  if (checkpoint.tensors.has(scaled)) {
    const what = `${checkpoint.name} scales activations (${scaled}), which is not supported`;
    throw tensors.fail("unsupported-variant", what, "format-unsupported");
  }
  const segments: SegmentOutline[] = [{ type: gridType(shape), from: 0, to: columns }];
  return tensors.open({ out, in: columns, segments }, (signal) =>
    readModule(tensors, { qweight, qzeros, scales }, config, outline, shape, signal),
  );
}

async function readModule(
  tensors: ModuleTensors,
  parts: Readonly<Record<"qweight" | "qzeros" | "scales", SafetensorsTensor>>,
  { layout }: AwqConfig,
  outline: Outline,
  shape: GridShape,
  signal: AbortSignal | undefined,
): Promise<Omit<LinearWeight, "out" | "in" | "experts">> {
  const fast = layout === "gemv_fast";
  const [qweight, zeros, scales] = await Promise.all([
    tensors.checkpoint.read(parts.qweight, signal),
    fast ? tensors.scaleBits(parts.qzeros, signal) : tensors.words(parts.qzeros, signal),
    tensors.scaleBits(parts.scales, signal),
  ]);
  const words = wordsFrom(qweight);
  const { out, columns, groups } = outline;
  const builder = buildGrid(out, columns, shape);
  const height = panelRows[layout];
  const width = columns / 8;
  const panel = new Uint32Array(height * width);
  const rowScales = new Uint32Array(groups);
  const rowZeros = new Uint32Array(groups);
  for (let n = 0; n < out; n++) {
    const row = n % height;
    if (row === 0) readPanel(layout, outline, words, n, panel);
    for (let g = 0; g < groups; g++) {
      const at = scaleAt(layout, outline, n, g);
      rowScales[g] = scales[at]!;
      rowZeros[g] = fast ? zeros[at]! : readZero(layout, outline, zeros as Uint32Array, n, g);
    }
    builder.stream(n, panel.subarray(row * width, (row + 1) * width), rowScales, rowZeros);
  }
  return { segments: builder.segments };
}
