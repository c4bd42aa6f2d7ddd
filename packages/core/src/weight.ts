import type { QuantType } from "./quant-type.ts";

/**
 * A linear weight `y = x·Wᵀ + bias` as a format hands it to a backend: bytes stay packed. Segments cover the input columns
 * and their products are summed; most formats have one.
 */
export interface LinearWeight {
  /** Output features of one matrix. */
  readonly out: number;
  /** Input features. */
  readonly in: number;
  /** Matrices stacked along the output (mixture of experts). @default 1 */
  readonly experts?: number;
  /** f32, `experts · out` long. */
  readonly bias?: Float32Array;
  readonly segments: readonly WeightSegment[];
}

export interface WeightSegment {
  readonly type: QuantType;
  /** Input columns [from, to) that this segment holds. */
  readonly from: number;
  readonly to: number;
  /** Whole blocks, row-major: `experts · out` rows of `(to − from) / type.block` blocks, little-endian. */
  readonly blocks: Uint8Array;
}

/** Rows over all experts. */
export function rowsOf(weight: LinearWeight): number {
  return weight.out * (weight.experts ?? 1);
}
