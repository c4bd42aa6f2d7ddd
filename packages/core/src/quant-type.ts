/**
 * One quantization type, described as data. Everything obeys
 *
 *     w = S · ((C[code] + delta) · sign − Z) − M     S = super-scale × sub-scale,  M = super-min × sub-min
 *
 * and the description says where in a block the bits of code, scales, mins, signs and deltas lie. From it core derives the
 * reference dequantizer (`quant-reference`), the gather table that backends repack with (`quant-plan`) and the
 * figures that `inspect` shows (`quant-describe`).
 */
export interface QuantType {
  /** The field's name for it, e.g. "Q4_K". */
  readonly name: string;
  /** Weights in a block; they lie consecutively along a row (the input dimension). */
  readonly block: number;
  /** Bytes in a block. */
  readonly bytes: number;
  readonly code: CodeField;
  readonly values: CodeValues;
  /** Absent: 1. */
  readonly scale?: ScaleField;
  /** Absent: 0. Subtracted, so a format that adds its minimum sets `multiplier: -1`. */
  readonly min?: ScaleField;
  /** Zero point, subtracted before scaling. Absent: 0. Excludes `min`, and a sub-scale. */
  readonly zero?: ZeroField;
  /** Each weight is rounded to this format at the end. */
  readonly round?: "f16" | "bf16";
  /** Absent: all positive. */
  readonly sign?: SignField;
  /** Added to the codebook entry before scaling (IQ1). */
  readonly delta?: { readonly field: BitField; readonly values: readonly number[] };
}

/**
 * A piece of a bit field. Value number `i` of the field takes `bits` bits at bit position
 * `at + Σ digit_d · stride_d`, where the digits of `i` in the mixed radix of `dims` (lowest first) are multiplied by
 * their strides. Positions count from bit 0 of byte 0, least significant first; a piece may cross byte borders.
 */
export interface BitPiece {
  readonly at: number;
  /** 1 to 32. */
  readonly bits: number;
  /** [count, stride in bits] pairs; the product of the counts is the number of values. Empty for a single value. */
  readonly dims: readonly (readonly [count: number, stride: number])[];
}

/** Values spread over a block: each is the concatenation of its pieces, the first piece lowest. */
export interface BitField {
  /** Consecutive weights that share one value: 1 for a code, 32 for a sub-block scale, `block` for a super-scale. */
  readonly per: number;
  readonly pieces: readonly BitPiece[];
  /** Two's complement. @default false */
  readonly signed?: boolean;
}

/** Codes as bit fields, or by a function where they are not (base-3 packing). `per` is the codebook dimension. */
export type CodeField = BitField | UnpackedCodes;

export interface UnpackedCodes {
  readonly per: 1;
  /** Bits that hold the largest code. */
  readonly bits: number;
  /** Writes `block` codes of one block. */
  unpack(block: Uint8Array, codes: Uint8Array): void;
}

export type CodeValues =
  /** code − zero */
  | { readonly kind: "affine"; readonly zero: number }
  /**
   * Codebook: entry `code` holds `dimension` values, back to back in `table`. Any f32 values; kernels are fastest where they are
   * signed bytes times a power of two. With signs, deltas or a dimension above 1 they must be.
   */
  | { readonly kind: "book"; readonly dimension: 1 | 2 | 4 | 8; readonly table: readonly number[] }
  /** No codes: the block is one number in this format. */
  | { readonly kind: "dense"; readonly format: DenseFormat };

export type DenseFormat =
  | "f64"
  | "f32"
  | "f16"
  | "bf16"
  | "f8-e4m3"
  | "f8-e5m2"
  | "i8"
  | "i16"
  | "i32"
  | "i64";

/** How the bits of a scale are a number. `e8m0-half` is 2^(e−128), `ue4m3-half` an unsigned E4M3 halved (0x7f is 0). */
export type ScaleFormat = "f32" | "f16" | "bf16" | "ue4m3-half" | "e8m0-half";

/** A scale: `super · (sub + offset) · multiplier`, each factor optional; the products round to f32 left to right. */
export interface ScaleField {
  readonly super?: { readonly field: BitField; readonly format: ScaleFormat };
  readonly sub?: { readonly field: BitField; readonly offset?: number };
  /** A power of two, so that its place in the product does not matter. @default 1 */
  readonly multiplier?: number;
}

/** A zero point: an integer `field + offset`, or a number in `format`. The difference code − zero rounds to f32. */
export interface ZeroField {
  readonly field: BitField;
  readonly offset?: number;
  readonly format?: ScaleFormat;
}

/** Signs in groups of eight weights: bit j set makes weight j of the group negative. */
export interface SignField {
  readonly field: BitField;
  /** The field holds 7 bits and the eighth makes the number of minus signs even. @default false */
  readonly parity?: boolean;
}

/** Is the code described by a function? */
export function isUnpacked(code: CodeField): code is UnpackedCodes {
  return "unpack" in code;
}
