import {
  denseWeight,
  floatToHalf,
  type LinearWeight,
  type QuantType,
  rowsOf,
  type SafetensorsDtype,
} from "@lowbit/core";
import { safetensorsError } from "../errors.ts";
import { denseTypes, sliceRows } from "../weight-parts.ts";

/** What matrices and vectors of plain numbers are written as. */
export type DenseDtype = "F16" | "BF16" | "F32";

/** f32 values that are decoded at a time. */
const panelValues = 2 ** 18;

/** A matrix of plain numbers, rows in canonical order. */
export interface DenseMatrix {
  readonly dtype: SafetensorsDtype;
  readonly type: QuantType;
  readonly blocks: Uint8Array;
  /** The bytes are the source's own. */
  readonly moved: boolean;
}

/**
 * A weight as plain numbers: in `wanted`; else as it is, if it is plain; else in the first of `order` that holds every value. Panels
 * of rows are decoded, so that no f32 copy of the whole is made.
 */
export function denseMatrix(
  weight: LinearWeight,
  wanted: DenseDtype | undefined,
  order: readonly DenseDtype[],
  what: string,
): DenseMatrix {
  const own = plainDtype(weight);
  const [segment] = weight.segments;
  if (own && segment && (wanted ?? own) === own) {
    return { dtype: own, type: denseTypes[own] as QuantType, blocks: segment.blocks, moved: true };
  }
  const dtype = wanted ?? firstHolding(order, () => panels(weight));
  const size = dtype === "F32" ? 4 : 2;
  const blocks = new Uint8Array(rowsOf(weight) * weight.in * size);
  let at = 0;
  for (const values of panels(weight)) {
    blocks.set(encodeDense(dtype, values, what), at);
    at += values.length * size;
  }
  return { dtype, type: denseTypes[dtype] as QuantType, blocks, moved: false };
}

/** The first dtype that holds all values; the last of `order` is not asked. */
export function firstHolding(order: readonly DenseDtype[], values: () => Iterable<Float32Array>): DenseDtype {
  const candidates = order.slice(0, -1);
  let left = candidates;
  if (left.length > 0) {
    for (const part of values()) {
      left = left.filter((dtype) => holds(dtype, part));
      if (left.length === 0) break;
    }
  }
  return left[0] ?? order.at(-1) ?? "F32";
}

/** A weight that is nothing but plain numbers of one dtype. */
function plainDtype({ segments, permute, rowScale, in: width }: LinearWeight): SafetensorsDtype | undefined {
  const [segment] = segments;
  if (!segment || segments.length > 1 || permute || rowScale || segment.to - segment.from !== width) return;
  const { values, block } = segment.type;
  if (values.kind !== "dense" || block !== 1) return undefined;
  const found = Object.entries(denseTypes).find(
    ([, type]) => type.values.kind === "dense" && type.values.format === values.format,
  );
  return found?.[0] as SafetensorsDtype | undefined;
}

function* panels(weight: LinearWeight): Generator<Float32Array> {
  const rows = rowsOf(weight);
  const step = Math.max(1, Math.floor(panelValues / weight.in));
  for (let row = 0; row < rows; row += step) {
    yield denseWeight(sliceRows(weight, row, Math.min(rows, row + step)));
  }
}

/** Does the dtype hold every value? */
export function holds(dtype: DenseDtype, values: Float32Array): boolean {
  if (dtype === "F32") return true;
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  if (dtype === "BF16") return words.every((bits) => (bits & 0xffff) === 0);
  return words.every(isHalf);
}

/** Bits of an f32 that is a half: 10 bits of fraction from 2^-14 to 65504, below that multiples of 2^-24. */
function isHalf(bits: number): boolean {
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x38800000)
    return (bits & 0x1fff) === 0 && (magnitude < 0x47800000 || magnitude === 0x7f800000);
  const exponent = magnitude >>> 23;
  // The lowest bit of the fraction stands for 2^(exponent − 150).
  const below = 126 - exponent;
  if (magnitude === 0) return true;
  return below < 24 && (((magnitude & 0x7fffff) | 0x800000) & ((1 << below) - 1)) === 0;
}

/** Little-endian numbers, nearest with ties to even. Throws `bad-argument` where a finite value would become infinite. */
export function encodeDense(dtype: DenseDtype, values: Float32Array, what: string): Uint8Array {
  if (dtype === "F32") return new Uint8Array(values.buffer, values.byteOffset, values.byteLength).slice();
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  const infinity = dtype === "F16" ? 0x7c00 : 0x7f80;
  for (let i = 0; i < out.length; i++) {
    const bits = words[i]!;
    const half = dtype === "F16" ? floatToHalf(values[i]!) : bfloat(bits);
    if ((half & 0x7fff) === infinity && (bits & 0x7fffffff) < 0x7f800000) {
      throw safetensorsError(
        "bad-argument",
        "type",
        `${what} has the value ${values[i]}, which is too large for ${dtype}.`,
        { hint: 'Choose the type "bf16" or "f32".' },
      );
    }
    out[i] = half;
  }
  return new Uint8Array(out.buffer);
}

function bfloat(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}
