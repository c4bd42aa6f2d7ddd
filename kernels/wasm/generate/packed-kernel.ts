import type { MaskName } from "./emitter.ts";

/**
 * How dot products are computed:
 * - wide: i32x4.relaxed_dot_i8x16_i7x16_add, one instruction with VNNI or SDOT. Its second operand must be 0..127; weights with a sign go first
 *   and the activations come as max(x,0) and max(−x,0).
 * - narrow: i16x8.relaxed_dot_i8x16_i7x16, one instruction (pmaddubsw) on older x86, sums kept in 16 bits as long as they fit. Signed weights: as simd.
 * - simd: i32x4.dot_i16x8 on activations stored as 16 bits: even bytes of a row's four, then odd ones.
 */
export type Dot = "wide" | "narrow" | "simd";
export type Mode = "CODES" | "TABLE" | "SIGNED_TABLE" | "BYTES";

export interface PackedKernel {
  readonly dot: Dot;
  readonly mode: Mode;
  readonly width: number;
  readonly group: 16 | 32;
  readonly quarters: number;
  readonly tokens: number;
}

/** Bytes of an activation block's scale and sums, and offsets in it: see `Activation` in c/linear.h. */
export const meta = { bytes: 32, scale: 0, half: 4, whole: 12, negative: 16 };
/** Where the bits of a quad's codes lie: vector, right shift (negative: left), mask. See c/repack.c. */
export function pieces(
  width: number,
  quad: number,
): readonly (readonly [vector: number, shift: number, mask: MaskName])[] {
  const two: readonly [number, number, MaskName] = [quad >> 2, 2 * (quad % 4), 3];
  const four: readonly [number, number, MaskName] = [quad >> 1, 4 * (quad % 2), 15];
  switch (width) {
    case 1:
      return [[0, quad, 1]];
    case 2:
      return [two];
    case 3:
      return [two, [2, quad - 2, 4]];
    case 4:
      return [four];
    case 5:
      return [four, [4, quad - 4, 16]];
    case 6:
      return [four, [4 + (quad >> 2), 2 * (quad % 4) - 4, 48]];
    default:
      return [[quad, 0, 15]]; // its mask is not used
  }
}

/** Quads whose low bits share a vector. */
export function quadsPerVector(width: number): number {
  return width === 8 ? 1 : 8 / (width >= 4 ? 4 : width >= 2 ? 2 : 1);
}

export const isSigned = (mode: Mode): boolean => mode === "SIGNED_TABLE" || mode === "BYTES";

/** narrow: quads whose sums fit 16 bits together, each pair of products being at most 2 · largest code · 127. */
export function quadsPerSum({ mode, width, group }: PackedKernel): number {
  if (mode !== "CODES") return 1;
  let quads = group / 4;
  while ((2 ** width - 1) * 254 * quads > 32767) quads /= 2;
  return quads;
}

/** How a kernel reads activations: bytes per block and per quad, of the plane it wants (`plane_of` in c/linear-packed.c agrees). */
export function activationStride({ dot, mode }: PackedKernel): { block: number; quad: number } {
  if (dot === "simd" || (dot === "narrow" && isSigned(mode))) return { block: 64, quad: 8 };
  return dot === "wide" && isSigned(mode) ? { block: 64, quad: 4 } : { block: 32, quad: 4 };
}
