import type { PlainJson } from "./json.ts";
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
  /**
   * Column j of the segments meets input `permute[j]`: a permutation of all `in` inputs. Formats that assign inputs to scale groups
   * freely (GPTQ act-order, EXL2) sort their columns by group. Absent: column j meets input j.
   */
  readonly permute?: Int32Array;
  /** Multiplies each output before the bias is added; `experts · out` long. Absent: 1. */
  readonly rowScale?: Float32Array;
  readonly segments: readonly WeightSegment[];
  /** The blocks are nobody else's: a backend that has copied them may free them at once, before any garbage collection. */
  readonly disposable?: boolean;
  /**
   * What a writer of the same packing needs to write the same bytes again and the values do not tell, under the packing's name; JSON.
   * Writers check it against the values before they use it; a copy with its rows in another order may keep it. Backends ignore it.
   */
  readonly provenance?: { readonly [packing: string]: PlainJson };
}

/** A segment without its data. */
export interface SegmentOutline {
  readonly type: QuantType;
  /** Columns [from, to) that this segment holds. */
  readonly from: number;
  readonly to: number;
}

export interface WeightSegment extends SegmentOutline {
  /** Whole blocks, row-major: `experts · out` rows of `(to − from) / type.block` blocks, little-endian. */
  readonly blocks: Uint8Array;
}

/** Rows over all experts. */
export function rowsOf(weight: LinearWeight): number {
  return weight.out * (weight.experts ?? 1);
}

/** Is it a permutation of 0 to `size` − 1? */
export function isPermutation(permute: Int32Array, size: number): boolean {
  const seen = new Uint8Array(size);
  return (
    permute.length === size &&
    permute.every((input) => {
      if (input < 0 || input >= size || seen[input]) return false;
      seen[input] = 1;
      return true;
    })
  );
}
