import type { LinearWeight, QuantType } from "@lowbit/core";
import { bandRows, bandShape, type PackedLayout, packedLayout, superItemBytes } from "./packed-layout.ts";

/** Kinds of segments: the enum of c/linear.h. */
export const kinds = { f32: 0, f16: 1, bf16: 2, packed: 3, lookup: 4 } as const;

/** How one segment is held. */
export interface SegmentLayout {
  readonly name: string;
  readonly bitsPerWeight: number;
  readonly kind: (typeof kinds)[keyof typeof kinds];
  readonly packed: PackedLayout | undefined;
  /** Columns as kernels see them: of packed segments whole blocks of 32. */
  readonly columns: number;
  /** Bytes of a band of rows. */
  readonly bandBytes: number;
}

/** A weight's segments as they are held. */
export interface Placement {
  /** Inputs as kernels see them. */
  readonly columns: number;
  readonly segments: readonly { readonly layout: SegmentLayout; readonly from: number }[];
  /** Input at each column, −1 for those that only fill up a block of 32 and are to be 0. Absent: the inputs as they come. */
  readonly order: Int32Array | undefined;
  /** Segments that overlap an earlier one. */
  readonly adds: readonly boolean[];
  /** Some column has no segment. */
  readonly gaps: boolean;
}

/**
 * Packed segments begin at a multiple of 32 columns and are whole blocks of 32, as activations are quantized. Where a format has cut them
 * otherwise (groups of 16 or 48, a short last group) the inputs are spread so that they fit, unless segments overlap or leave gaps.
 */
export function placeSegments(weight: LinearWeight): Placement {
  const { segments, permute } = weight;
  const { adds, gaps } = coverage(weight);
  const fits = segments.every(({ from, to }) => from % 32 === 0 && to % 32 === 0);
  if (fits || gaps || adds.includes(true) || !segments.some(({ type, from, to }) => holds(type, to - from))) {
    const placed = segments.map(({ type, from, to }) => {
      const packs = from % 32 === 0 && to % 32 === 0;
      return { layout: packs ? segmentLayout(type, to - from) : denseLayout(type, to - from), from };
    });
    return { columns: weight.in, segments: placed, order: permute, adds, gaps };
  }
  let end = 0;
  const placed = segments.map(({ type, from, to }) => {
    const at = end;
    end += roundUp(to - from, 32);
    return { layout: segmentLayout(type, to - from), from: at };
  });
  const order = new Int32Array(end).fill(-1);
  segments.forEach(({ from, to }, i) => {
    for (let j = from; j < to; j++) order[placed[i]!.from + j - from] = permute ? permute[j]! : j;
  });
  return { columns: end, segments: placed, order, adds, gaps };
}

function holds(type: QuantType, columns: number): boolean {
  const packed = packedLayout(type);
  return packed !== undefined && columns % packed.plan.type.block === 0;
}

/** The layout of a segment that may begin at a multiple of 32 columns. */
export function segmentLayout(type: QuantType, columns: number): SegmentLayout {
  const packed = holds(type, columns) ? packedLayout(type) : undefined;
  if (packed === undefined) return denseLayout(type, columns);
  const { plan, width, min } = packed;
  const family = packed.floats ? "floats" : plan.family === "ints" ? "ints" : "book";
  const scaleBits = [plan.scale, min].map(
    (scale) =>
      (scale?.super && (scale === plan.scale || scale.super !== plan.scale.super)
        ? (8 * superItemBytes(scale.super.format)) / scale.super.per
        : 0) + (scale?.sub ? 8 / scale.sub.per : 0),
  );
  const held = roundUp(columns, 32);
  return {
    name: `${family}${width} g${packed.group}`,
    bitsPerWeight: width + scaleBits[0]! + scaleBits[1]!,
    kind: packed.floats ? kinds.lookup : kinds.packed,
    packed,
    columns: held,
    bandBytes: bandShape(packed, held).bytes,
  };
}

function denseLayout(type: QuantType, columns: number): SegmentLayout {
  const format = denseFormat(type);
  const itemBytes = format === "f32" ? 4 : 2;
  return {
    name: `dense ${format}`,
    bitsPerWeight: itemBytes * 8,
    kind: kinds[format],
    packed: undefined,
    columns,
    bandBytes: roundUp(bandRows * itemBytes * columns, 64),
  };
}

/** The smallest dense format that holds a type's values exactly. */
function denseFormat(type: QuantType): "f32" | "f16" | "bf16" {
  if (type.values.kind !== "dense") return "f32";
  switch (type.values.format) {
    case "bf16":
      return "bf16";
    case "f16":
    case "f8-e4m3":
    case "f8-e5m2":
    case "i8":
      // The latter where rows are no multiple of 32, and have no planes.
      return "f16";
    default:
      return "f32";
  }
}

function coverage({ segments, in: columns }: LinearWeight): Pick<Placement, "adds" | "gaps"> {
  const adds = segments.map(({ from, to }, i) =>
    segments.slice(0, i).some((earlier) => earlier.from < to && from < earlier.to),
  );
  let covered = 0;
  for (const { from, to } of [...segments].sort((a, b) => a.from - b.from)) {
    if (from > covered) return { adds, gaps: true };
    covered = Math.max(covered, to);
  }
  return { adds, gaps: covered < columns };
}

export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}
