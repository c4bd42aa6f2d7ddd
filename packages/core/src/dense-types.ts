import type { DenseFormat, QuantType, ScaleFormat } from "./quant-type.ts";

const scratchBits = new Uint32Array(1);
const scratchFloat = new Float32Array(scratchBits.buffer);

/** The f32 with these bits. */
export function bitsToFloat(bits: number): number {
  scratchBits[0] = bits;
  return scratchFloat[0]!;
}

/** The bits of the nearest f32. */
export function floatToBits(value: number): number {
  scratchFloat[0] = value;
  return scratchBits[0]!;
}

/** IEEE half precision, exactly; NaN payloads are not kept. */
export function halfToFloat(half: number): number {
  const magnitude = half & 0x7fff;
  let value: number;
  // As f32 bits the exponent is too small by the difference of the biases, 112; subnormals come out right as well.
  if (magnitude < 0x7c00) value = bitsToFloat(magnitude << 13) * 2 ** 112;
  else value = magnitude === 0x7c00 ? Number.POSITIVE_INFINITY : Number.NaN;
  return half & 0x8000 ? -value : value;
}

/** Nearest half, ties to even, overflow to infinity. */
export function floatToHalf(value: number): number {
  const bits = floatToBits(value);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal half: a multiple of 2^-24. Scaling by 2^24 is exact in f64.
    return sign | roundHalfEven(bitsToFloat(magnitude) * 2 ** 24);
  }
  const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
  return sign | ((rounded - 0x38000000) >>> 13);
}

/** Nearest bfloat16, ties to even, as an f32. */
export function roundToBf16(value: number): number {
  const bits = floatToBits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return Number.NaN;
  return bitsToFloat((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000);
}

/** Nearest integer, ties to even, as torch and numpy round (`Math.round` rounds halves up). */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** OCP FP8 E4M3 (no infinities; 0x7f and 0xff are NaN). */
export function e4m3ToFloat(byte: number): number {
  const sign = byte & 128 ? -1 : 1;
  const exponent = (byte >> 3) & 15;
  const mantissa = byte & 7;
  if (exponent === 15 && mantissa === 7) return Number.NaN;
  return sign * (exponent === 0 ? mantissa * 2 ** -9 : (1 + mantissa / 8) * 2 ** (exponent - 7));
}

/** OCP FP8 E5M2: the top half of an IEEE half. */
export function e5m2ToFloat(byte: number): number {
  return halfToFloat(byte << 8);
}

/** A scale from its bits. */
export function decodeScale(format: ScaleFormat, bits: number): number {
  switch (format) {
    case "f32":
      return bitsToFloat(bits);
    case "f16":
      return halfToFloat(bits);
    case "bf16":
      return bitsToFloat(bits * 65536);
    case "e8m0-half":
      return 2 ** (bits - 128);
    case "ue4m3-half":
      return (bits & 127) === 127 ? 0 : e4m3ToFloat(bits & 127) / 2;
  }
}

const readers: Record<DenseFormat, (view: DataView, offset: number) => number> = {
  f64: (view, at) => view.getFloat64(at, true),
  f32: (view, at) => view.getFloat32(at, true),
  f16: (view, at) => halfToFloat(view.getUint16(at, true)),
  bf16: (view, at) => bitsToFloat(view.getUint16(at, true) * 65536),
  "f8-e4m3": (view, at) => e4m3ToFloat(view.getUint8(at)),
  "f8-e5m2": (view, at) => e5m2ToFloat(view.getUint8(at)),
  i8: (view, at) => view.getInt8(at),
  i16: (view, at) => view.getInt16(at, true),
  i32: (view, at) => view.getInt32(at, true),
  i64: (view, at) => Number(view.getBigInt64(at, true)),
};

/** Bytes of one number. */
export const denseBytes: Readonly<Record<DenseFormat, number>> = {
  f64: 8,
  f32: 4,
  f16: 2,
  bf16: 2,
  "f8-e4m3": 1,
  "f8-e5m2": 1,
  i8: 1,
  i16: 2,
  i32: 4,
  i64: 8,
};

/** Little-endian numbers to f32; fills `out`. */
export function decodeDense(format: DenseFormat, bytes: Uint8Array, out: Float32Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const step = denseBytes[format];
  const read = readers[format];
  const count = Math.min(out.length, Math.floor(bytes.byteLength / step));
  for (let i = 0; i < count; i++) out[i] = read(view, i * step);
}

/** The quantization type of plain numbers: blocks of one. */
export function denseType(name: string, format: DenseFormat): QuantType {
  const bytes = denseBytes[format];
  return {
    name,
    block: 1,
    bytes,
    code: { per: 1, pieces: [{ at: 0, bits: Math.min(32, bytes * 8), dims: [[1, 0]] }] },
    values: { kind: "dense", format },
  };
}
