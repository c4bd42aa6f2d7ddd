import {
  denseWeight,
  floatToBits,
  floatToHalf,
  type LinearWeight,
  LowbitError,
  portableMath,
  type QuantType,
  roundToBf16,
  rowsOf,
} from "@lowbit/core";
import { BF16, F16, F32, MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, TQ1_0, TQ2_0 } from "./types.ts";

const { fround } = Math;
/** Weights decoded at a time: 1 MiB of f32. */
const panelWeights = 2 ** 18;

/** Rounds whole blocks of f32 to a type. `out` is as long as the blocks. */
type Quantizer = (values: Float32Array, out: DataView) => void;

/** Types that rows can be rounded to, by the rules of ggml's reference quantizers: the bytes are the same. */
const quantizers: ReadonlyMap<QuantType, Quantizer> = new Map([
  [F32, plain(4, (out, at, value) => out.setFloat32(at, value, true))],
  [F16, plain(2, (out, at, value) => out.setUint16(at, floatToHalf(value), true))],
  [BF16, plain(2, (out, at, value) => out.setUint16(at, floatToBits(roundToBf16(value)) >>> 16, true))],
  [Q4_0, symmetric(4)],
  [Q5_0, symmetric(5)],
  [Q4_1, ranged(4)],
  [Q5_1, ranged(5)],
  [Q8_0, bytes],
  [MXFP4, floats],
  [TQ1_0, ternary(TQ1_0.bytes, putBase3)],
  [TQ2_0, ternary(TQ2_0.bytes, putPairs)],
]);

/** Names of the types that `quantizeTo` knows. */
export const quantizableTypes: ReadonlyMap<string, QuantType> = new Map(
  [...quantizers.keys()].map((type) => [type.name, type]),
);

/** Rows of f32, whole blocks each, rounded to a type of `quantizableTypes`. */
export function quantizeTo(type: QuantType, values: Float32Array): Uint8Array {
  const blocks = new Uint8Array((values.length / type.block) * type.bytes);
  quantizerOf(type)(values, new DataView(blocks.buffer));
  return blocks;
}

/** The same for a whole weight, of which only a few rows are decoded at a time. */
export function quantizeWeight(type: QuantType, weight: LinearWeight): Uint8Array {
  const quantize = quantizerOf(type);
  const bytes = (weight.in / type.block) * type.bytes;
  const blocks = new Uint8Array(rowsOf(weight) * bytes);
  for (const { row, values } of panelsOf(weight)) {
    quantize(values, new DataView(blocks.buffer, row * bytes));
  }
  return blocks;
}

/** The values of a weight, some rows after others. */
export function* panelsOf(weight: LinearWeight): Generator<{ row: number; values: Float32Array }> {
  const { in: columns, permute, rowScale, segments } = weight;
  const rows = rowsOf(weight);
  const panel = Math.max(1, Math.floor(panelWeights / columns));
  for (let row = 0; row < rows; row += panel) {
    const out = Math.min(panel, rows - row);
    const values = denseWeight({
      out,
      in: columns,
      ...(permute && { permute }),
      ...(rowScale && { rowScale: rowScale.subarray(row, row + out) }),
      segments: segments.map((segment) => {
        const bytes = ((segment.to - segment.from) / segment.type.block) * segment.type.bytes;
        return { ...segment, blocks: segment.blocks.subarray(row * bytes, (row + out) * bytes) };
      }),
    });
    yield { row, values };
  }
}

function quantizerOf(type: QuantType): Quantizer {
  const quantize = quantizers.get(type);
  if (quantize) return quantize;
  throw new LowbitError("type-unsupported", `${type.name} has no quantizer here.`, {
    reason: "unsupported-type",
    plugin: "gguf",
    hint: `Known are ${[...quantizableTypes.keys()].join(", ")}.`,
  });
}

function plain(bytes: number, put: (out: DataView, at: number, value: number) => void): Quantizer {
  return (values, out) => {
    for (let i = 0; i < values.length; i++) put(out, bytes * i, values[i]!);
  };
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

/** MXFP4: the power of two that brings the largest weight into the reach of E2M1, then the nearest level; the lower code of two. */
function floats(values: Float32Array, out: DataView): void {
  const levels = MXFP4.values.kind === "book" ? MXFP4.values.table : [];
  const codes = new Uint8Array(32);
  for (let b = 0; b < values.length / 32; b++) {
    const block = values.subarray(32 * b, 32 * (b + 1));
    let largest = 0;
    for (const value of block) largest = Math.max(largest, Math.abs(value));
    // ggml takes the logarithm in f32, which rounds up just below a power of two.
    const exponent = Math.floor(fround(portableMath.log(largest) / Math.LN2)) - 2 + 127;
    const stored = largest === 0 ? 0 : Math.min(254, Math.max(0, exponent));
    const scale = 2 ** (stored - 128);
    for (let i = 0; i < 32; i++) {
      let least = Number.POSITIVE_INFINITY;
      for (let code = 0; code < 16; code++) {
        const error = Math.abs(fround(fround(levels[code]! * scale) - block[i]!));
        if (error >= least) continue;
        least = error;
        codes[i] = code;
      }
    }
    out.setUint8(MXFP4.bytes * b, stored);
    putCodes(out, MXFP4.bytes * b + 1, 4, codes);
  }
}

/** TQ1_0, TQ2_0: −1, 0 or 1 times the largest magnitude. The scale stands behind the codes. */
function ternary(size: number, put: (out: DataView, at: number, digits: Uint8Array) => void): Quantizer {
  const digits = new Uint8Array(256);
  return (values, out) => {
    for (let b = 0; b < values.length / 256; b++) {
      const block = values.subarray(256 * b, 256 * (b + 1));
      let scale = 0;
      for (const value of block) scale = Math.max(scale, Math.abs(value));
      const inverse = scale === 0 ? 0 : fround(1 / scale);
      for (let i = 0; i < 256; i++) {
        const scaled = fround(block[i]! * inverse);
        digits[i] = 1 + Math.sign(scaled) * Math.floor(Math.abs(scaled) + 0.5);
      }
      put(out, size * b, digits);
      out.setUint16(size * (b + 1) - 2, floatToHalf(scale), true);
    }
  };
}

/** Five digits to a byte, the byte being ⌈256 · value / 243⌉; four in the last four bytes, as the upper digits. */
function putBase3(out: DataView, at: number, digits: Uint8Array): void {
  let first = 0;
  for (const [from, bytes, count] of [
    [0, 32, 5],
    [32, 16, 5],
    [48, 4, 4],
  ] as const) {
    for (let i = 0; i < bytes; i++) {
      let value = 0;
      for (let n = 0; n < 5; n++) value = 3 * value + (n < count ? digits[first + n * bytes + i]! : 0);
      out.setUint8(at + from + i, Math.ceil((256 * value) / 243));
    }
    first += bytes * count;
  }
}

/** Four weights, 32 apart, to a byte; 32 bytes hold 128. */
function putPairs(out: DataView, at: number, digits: Uint8Array): void {
  for (let i = 0; i < 64; i++) {
    const first = 128 * (i >> 5) + (i & 31);
    let byte = 0;
    for (let n = 0; n < 4; n++) byte |= digits[first + 32 * n]! << (2 * n);
    out.setUint8(at + i, byte);
  }
}
