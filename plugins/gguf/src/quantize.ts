import { floatToBits, floatToHalf, halfToFloat, type QuantType, roundToBf16 } from "@lowbit/core";
import { BF16, F16, F32, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 } from "./types.ts";

const { fround } = Math;

/** Rounds whole blocks of f32 to a type. `out` is as long as the blocks. */
type Quantizer = (values: Float32Array, out: DataView) => void;

/** Types that rows can be rounded to, by the rules of ggml's reference quantizers: the bytes are the same. */
const quantizers: ReadonlyMap<QuantType, Quantizer> = new Map([
  [F32, (values, out) => values.forEach((value, i) => void out.setFloat32(4 * i, value, true))],
  [F16, (values, out) => values.forEach((value, i) => void out.setUint16(2 * i, floatToHalf(value), true))],
  [
    BF16,
    (values, out) =>
      values.forEach((value, i) => void out.setUint16(2 * i, floatToBits(roundToBf16(value)) >>> 16, true)),
  ],
  [Q4_0, symmetric(4)],
  [Q5_0, symmetric(5)],
  [Q4_1, ranged(4)],
  [Q5_1, ranged(5)],
  [Q8_0, bytes],
]);

/** Names of the types that `quantizeTo` knows. */
export const quantizableTypes: ReadonlyMap<string, QuantType> = new Map(
  [...quantizers.keys()].map((type) => [type.name, type]),
);

/** Rows of f32, whole blocks each, rounded to a type of `quantizableTypes`. */
export function quantizeTo(type: QuantType, values: Float32Array): Uint8Array {
  const quantize = quantizers.get(type);
  if (!quantize) throw new Error(`${type.name} has no quantizer`);
  const blocks = new Uint8Array((values.length / type.block) * type.bytes);
  quantize(values, new DataView(blocks.buffer));
  return blocks;
}

/** Codes of 32 weights as the legacy types lay them out: low nibbles, the first half's in the low bits; fifth bits in a word before. */
export function putCodes(out: DataView, at: number, bits: 4 | 5, codes: ArrayLike<number>): void {
  let high = 0;
  const nibblesAt = at + (bits === 5 ? 4 : 0);
  for (let j = 0; j < 16; j++) {
    const [low, upper] = [codes[j]!, codes[j + 16]!];
    out.setUint8(nibblesAt + j, (low & 15) | ((upper & 15) << 4));
    high |= ((low >> 4) & 1) << j;
    high |= ((upper >> 4) & 1) << (j + 16);
  }
  if (bits === 5) out.setUint32(at, high >>> 0, true);
}

/** Q4_0, Q5_0: the weight of the largest magnitude becomes the lowest code. */
function symmetric(bits: 4 | 5): Quantizer {
  const half = 2 ** (bits - 1);
  const size = bits === 4 ? Q4_0.bytes : Q5_0.bytes;
  const codes = new Uint8Array(32);
  return (values, out) => {
    for (let b = 0; b < values.length / 32; b++) {
      const block = values.subarray(32 * b, 32 * (b + 1));
      let largest = 0;
      for (const value of block) if (Math.abs(value) > Math.abs(largest)) largest = value;
      const scale = fround(largest / -half);
      const inverse = scale === 0 ? 0 : fround(1 / scale);
      out.setUint16(size * b, floatToHalf(scale), true);
      for (let i = 0; i < 32; i++) {
        codes[i] = Math.min(2 * half - 1, Math.trunc(fround(fround(block[i]! * inverse) + (half + 0.5))));
      }
      putCodes(out, size * b + 2, bits, codes);
    }
  };
}

/** Q4_1, Q5_1: codes from the lowest weight to the highest. */
function ranged(bits: 4 | 5): Quantizer {
  const top = 2 ** bits - 1;
  const size = bits === 4 ? Q4_1.bytes : Q5_1.bytes;
  const codes = new Uint8Array(32);
  return (values, out) => {
    for (let b = 0; b < values.length / 32; b++) {
      const block = values.subarray(32 * b, 32 * (b + 1));
      let low = Number.POSITIVE_INFINITY;
      let high = Number.NEGATIVE_INFINITY;
      for (const value of block) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
      const scale = fround(fround(high - low) / top);
      const inverse = scale === 0 ? 0 : fround(1 / scale);
      out.setUint16(size * b, floatToHalf(scale), true);
      out.setUint16(size * b + 2, floatToHalf(low), true);
      for (let i = 0; i < 32; i++) {
        const code = Math.trunc(fround(fround(fround(block[i]! - low) * inverse) + 0.5));
        codes[i] = bits === 4 ? Math.min(top, code) : code;
      }
      putCodes(out, size * b + 4, bits, codes);
    }
  };
}

/** Q8_0: halves are rounded away from zero. */
function bytes(values: Float32Array, out: DataView): void {
  for (let b = 0; b < values.length / 32; b++) {
    const block = values.subarray(32 * b, 32 * (b + 1));
    let largest = 0;
    for (const value of block) largest = Math.max(largest, Math.abs(value));
    const scale = fround(largest / 127);
    const inverse = scale === 0 ? 0 : fround(1 / scale);
    out.setUint16(Q8_0.bytes * b, floatToHalf(scale), true);
    for (let i = 0; i < 32; i++) {
      const scaled = fround(block[i]! * inverse);
      out.setInt8(Q8_0.bytes * b + 2 + i, Math.sign(scaled) * Math.floor(Math.abs(scaled) + 0.5));
    }
  }
}

/** The smallest of F16, BF16 and F32 that holds every value; `first` is tried before the others. */
export function holdingType(values: Float32Array, first: QuantType = F16): QuantType {
  for (const type of first === BF16 ? [BF16, F16] : [F16, BF16]) {
    const round = type === F16 ? (value: number) => halfToFloat(floatToHalf(value)) : roundToBf16;
    if (values.every((value) => Object.is(round(value), value))) return type;
  }
  return F32;
}
