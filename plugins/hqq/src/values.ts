import type { SafetensorsTensor } from "@lowbit/core";
import { floatDtypes, floatFormats, floatsOf, type ModuleTensors, wordsFrom } from "@lowbit/packing";
import { unpackRow, type View } from "./layout.ts";
import { configOf, readSettings, readView } from "./settings.ts";

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

/** Checks the tensor of the codes; files that view it as floats have its bytes under another dtype. */
export function needCodes(
  site: ModuleTensors,
  part: string,
  view: View,
  asFloats: boolean,
): SafetensorsTensor {
  const { packing, packedRows, columns } = view;
  const tensor = site.need(part, asFloats ? floatDtypes : [packing.dtype]);
  const bytes = packedRows * columns * (packing.dtype === "I32" ? 4 : 1);
  const [rows, width] = tensor.shape;
  const fits = tensor.shape.length === 2 && rows === packedRows && (asFloats || width === columns);
  if (fits && tensor.bytes === bytes) return tensor;
  const what = `${site.where}: ${part} is ${tensor.dtype} [${tensor.shape.join(", ")}]`;
  throw site.fail("shape-mismatch", `${what}, expected ${packing.dtype} [${packedRows}, ${columns}]`);
}

/** `scale` or `zero`, or the older `scale_q` with its own settings under `meta_scale`. */
export async function openValues(
  site: ModuleTensors,
  part: "scale" | "zero",
  { groups, axis }: View,
  signal?: AbortSignal,
): Promise<Source> {
  if (site.has(part) || !site.has(`${part}_q`)) return plainSource(site, part, groups);
  const prefix = `meta_${part}`;
  const config = configOf(site.checkpoint.quantization, site.module, `${part}_quant_params`);
  const settings = await readSettings(site, `${prefix}.`, config, signal);
  const shape = axis === 1 ? { out: groups, in: 1 } : { out: 1, in: groups };
  const view = readView(`${site.where}: ${prefix}`, settings, shape);
  const codes = needCodes(site, `${part}_q`, view, Boolean(settings.get("view_as_float")));
  const scale = plainSource(site, `${prefix}.scale`, view.groups);
  const zero = plainSource(site, `${prefix}.zero`, view.groups);
  return {
    format: "f32",
    async read(signal) {
      const [bytes, scales, zeros] = await Promise.all([
        site.checkpoint.read(codes, signal),
        scale.read(signal),
        zero.read(signal),
      ]);
      const floats = dequantizeView(site, view, wordsOfView(view, bytes), scales, zeros);
      return { format: "f32", floats, bits: new Uint32Array(floats.buffer) };
    },
  };
}

/** One number for each group, or one for all. */
function plainSource(site: ModuleTensors, part: string, groups: number): Source {
  const tensor = site.need(part, floatDtypes);
  const count = tensor.shape.reduce((product, size) => product * size, 1);
  if (count !== groups && count !== 1) {
    const text = tensor.shape.join(", ");
    throw site.fail("shape-mismatch", `${site.where}: ${part} is [${text}], expected ${groups} numbers`);
  }
  const format = floatFormats[tensor.dtype as keyof typeof floatFormats];
  return {
    format,
    async read(signal) {
      const found = await site.scaleBits(tensor, signal);
      const all = format === "f32" ? new Uint32Array(groups) : new Uint16Array(groups);
      const bits = count === groups ? found : all.fill(found[0]!);
      const { buffer, byteOffset, byteLength } = bits;
      return { format, bits, floats: floatsOf(tensor, new Uint8Array(buffer, byteOffset, byteLength)) };
    },
  };
}

export function wordsOfView({ packing }: View, bytes: Uint8Array): Uint8Array | Uint32Array {
  return packing.dtype === "I32" ? wordsFrom(bytes) : bytes;
}

/** (code − zero) · scale in the order of the numbers, each step rounded to f32. */
export function dequantizeView(
  site: ModuleTensors,
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
    checkCodes(site, view, codes);
    for (let c = 0; c < columns; c++, at++) {
      const g = axis === 1 ? r : c;
      values[at] = Math.fround(codes[c]! - zeros.floats[g]!) * scales.floats[g]!;
    }
  }
  return values;
}

/** Codes of fewer bits than their packing has room for. */
export function checkCodes(site: ModuleTensors, { bits, packing }: View, codes: Uint8Array): void {
  if (bits === packing.bits) return;
  for (let k = 0; k < codes.length; k++) {
    if (codes[k]! < 2 ** bits) continue;
    throw site.fail("invalid-value", `${site.where}: a code is ${codes[k]}, of ${bits} bits`);
  }
}
