import {
  decodeDense,
  type PackedCheckpoint,
  type SafetensorsDtype,
  type SafetensorsTensor,
  wordsFrom,
} from "@lowbit/core";
import { fail, unpackRow, type View } from "./layout.ts";
import { configOf, readSettings, readView } from "./settings.ts";

const formats = { F16: "f16", BF16: "bf16", F32: "f32" } as const;
export const floatDtypes: readonly (keyof typeof formats)[] = ["F16", "BF16", "F32"];

/** Numbers, one for each group, as a file has them. */
export interface Values {
  readonly format: "f16" | "bf16" | "f32";
  /** Bit patterns in that format. */
  readonly bits: Uint16Array | Uint32Array;
  readonly floats: Float32Array;
}

/** Scales or zero points: plain, or packed themselves. */
export interface Source {
  readonly format: Values["format"];
  read(signal?: AbortSignal): Promise<Values>;
}

export function find(
  checkpoint: PackedCheckpoint,
  name: string,
  dtypes: readonly SafetensorsDtype[],
): SafetensorsTensor | undefined {
  const tensor = checkpoint.tensors.get(name);
  if (!tensor || dtypes.includes(tensor.dtype)) return tensor;
  const what = `${checkpoint.name}: ${name} is ${tensor.dtype}, expected ${dtypes.join(" or ")}`;
  throw fail("unsupported-type", what, "type-unsupported");
}

/** Checks the tensor of the codes; files that view it as floats have its bytes under another dtype. */
export function needCodes(
  checkpoint: PackedCheckpoint,
  name: string,
  view: View,
  asFloats: boolean,
): SafetensorsTensor {
  const { packing, packedRows, columns } = view;
  const tensor = find(checkpoint, name, asFloats ? floatDtypes : [packing.dtype]);
  if (!tensor) throw fail("missing-tensor", `${checkpoint.name} has no tensor ${name}`);
  const bytes = packedRows * columns * (packing.dtype === "I32" ? 4 : 1);
  const [rows, width] = tensor.shape;
  if (
    tensor.bytes === bytes &&
    tensor.shape.length === 2 &&
    rows === packedRows &&
    (asFloats || width === columns)
  ) {
    return tensor;
  }
  const what = `${checkpoint.name}: ${name} is ${tensor.dtype} [${tensor.shape.join(", ")}]`;
  throw fail("shape-mismatch", `${what}, expected ${packing.dtype} [${packedRows}, ${columns}]`);
}

/** `name.scale` or `name.zero`, or the older `name.scale_q` with its own settings under `name.meta_scale`. */
export async function openValues(
  checkpoint: PackedCheckpoint,
  name: string,
  part: "scale" | "zero",
  { groups, axis }: View,
  signal?: AbortSignal,
): Promise<Source> {
  const plain = find(checkpoint, `${name}.${part}`, floatDtypes);
  if (plain) return plainSource(checkpoint, plain, groups);
  if (!checkpoint.tensors.has(`${name}.${part}_q`)) {
    throw fail("missing-tensor", `${checkpoint.name} has neither ${name}.${part} nor ${part}_q`);
  }
  const prefix = `${name}.meta_${part}`;
  const config = configOf(checkpoint.quantization, name, `${part}_quant_params`);
  const settings = await readSettings(checkpoint, prefix, config, signal);
  const shape = axis === 1 ? { out: groups, in: 1 } : { out: 1, in: groups };
  const view = readView(`${checkpoint.name}: ${prefix}`, settings, shape);
  const codes = needCodes(checkpoint, `${name}.${part}_q`, view, Boolean(settings.get("view_as_float")));
  const [scale, zero] = ["scale", "zero"].map((own) => {
    const tensor = find(checkpoint, `${prefix}.${own}`, floatDtypes);
    if (tensor) return plainSource(checkpoint, tensor, view.groups);
    throw fail("missing-tensor", `${checkpoint.name} has no tensor ${prefix}.${own}`);
  });
  return {
    format: "f32",
    async read(signal) {
      const [bytes, scales, zeros] = await Promise.all([
        checkpoint.read(codes, signal),
        scale!.read(signal),
        zero!.read(signal),
      ]);
      const floats = dequantizeView(checkpoint.name, view, wordsOfView(view, bytes), scales, zeros);
      return { format: "f32", floats, bits: new Uint32Array(floats.buffer) };
    },
  };
}

/** One number for each group, or one for all. */
function plainSource(checkpoint: PackedCheckpoint, tensor: SafetensorsTensor, groups: number): Source {
  const { dtype, name, shape } = tensor;
  const count = shape.reduce((product, size) => product * size, 1);
  if (count !== groups && count !== 1) {
    throw fail(
      "shape-mismatch",
      `${checkpoint.name}: ${name} is [${shape.join(", ")}], expected ${groups} numbers`,
    );
  }
  const format = formats[dtype as keyof typeof formats];
  return {
    format,
    async read(signal) {
      const bytes = (await checkpoint.read(tensor, signal)).slice();
      const floats = new Float32Array(count);
      decodeDense(format, bytes, floats);
      const bad = floats.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0)
        throw fail("non-finite-scale", `${checkpoint.name}: ${name} has ${floats[bad]} at ${bad}`);
      const bits = format === "f32" ? new Uint32Array(bytes.buffer) : new Uint16Array(bytes.buffer);
      if (count === groups) return { format, bits, floats };
      const each = format === "f32" ? new Uint32Array(groups) : new Uint16Array(groups);
      return { format, bits: each.fill(bits[0]!), floats: new Float32Array(groups).fill(floats[0]!) };
    },
  };
}

export function wordsOfView({ packing }: View, bytes: Uint8Array): Uint8Array | Uint32Array {
  return packing.dtype === "I32" ? wordsFrom(bytes) : bytes;
}

/** (code − zero) · scale in the order of the numbers, each step rounded to f32. */
export function dequantizeView(
  where: string,
  view: View,
  words: Uint8Array | Uint32Array,
  scales: Values,
  zeros: Values,
): Float32Array {
  const { rows, columns, axis } = view;
  const values = new Float32Array(rows * columns);
  const codes = new Uint8Array(columns);
  for (let r = 0, at = 0; r < rows; r++) {
    unpackRow(view, words, r, 0, columns, codes, 0);
    checkCodes(where, view, codes);
    for (let c = 0; c < columns; c++, at++) {
      const g = axis === 1 ? r : c;
      values[at] = Math.fround(codes[c]! - zeros.floats[g]!) * scales.floats[g]!;
    }
  }
  return values;
}

/** Codes of fewer bits than their packing has room for. */
export function checkCodes(where: string, { bits, packing }: View, codes: Uint8Array): void {
  if (bits === packing.bits) return;
  for (let k = 0; k < codes.length; k++) {
    if (codes[k]! >= 2 ** bits)
      throw fail("invalid-value", `${where}: a code is ${codes[k]}, of ${bits} bits`);
  }
}
