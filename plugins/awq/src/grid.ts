import { floatToHalf, halfToFloat, type LinearWeight } from "@lowbit/core";
import { buildGrid, gridShapeOf, integerGrid, readCodes, regrid, wordsFrom } from "@lowbit/packing";
import type { Layout } from "./config.ts";
import { fits } from "./layout.ts";

/** Rows as a layout stores them. */
export interface StoredRows {
  readonly groups: number;
  /** Codes, and for each group the scale as the bits of a half, and the zero point; in gemv_fast the bits of −scale · zero. */
  row(n: number, codes: Uint8Array, scales: Uint32Array, zeros: Uint32Array): void;
}

/** Undefined for a weight that the layout cannot hold; zero points are not looked at. @param group −1 for whole rows */
export function storedRows(weight: LinearWeight, layout: Layout, group: number): StoredRows | undefined {
  const { out, in: columns, experts = 1, rowScale, permute } = weight;
  const size = group === -1 ? columns : group;
  if (experts !== 1 || rowScale || permute || !fits(layout, out, columns, size)) return undefined;
  return layout === "gemv_fast" ? minRows(weight, size) : zeroRows(weight, size);
}

function zeroRows(weight: LinearWeight, group: number): StoredRows | undefined {
  const grid = integerGrid(weight);
  if (grid?.bits !== 4 || grid.scale !== "f16" || grid.round || grid.group !== group) return undefined;
  const bytes = new Uint8Array(grid.groups);
  return {
    groups: grid.groups,
    row(n, codes, scales, zeros) {
      grid.row(n, codes, scales, bytes);
      zeros.set(bytes);
    },
  };
}

/** Of a weight with mins, whose blocks are [scale] [min] [codes]. */
function minRows({ in: columns, segments }: LinearWeight, group: number): StoredRows | undefined {
  const [segment] = segments;
  const shape = segment && gridShapeOf(segment.type);
  if (!shape || segments.length > 1 || shape.bits !== 4 || shape.scale !== "f16" || shape.min !== "f16") {
    return undefined;
  }
  if (shape.zero !== 0 || shape.round || shape.group !== group || segment.to !== columns) return undefined;
  const { type, blocks } = segment;
  const view = new DataView(blocks.buffer, blocks.byteOffset, blocks.byteLength);
  return {
    groups: columns / group,
    row(n, codes, scales, zeros) {
      let at = ((n * columns) / type.block) * type.bytes;
      for (let column = 0; column < columns; column += type.block, at += type.bytes) {
        const g = Math.floor(column / group);
        scales[g] = view.getUint16(at, true);
        zeros[g] = view.getUint16(at + 2, true);
        const words = wordsFrom(blocks.slice(at + 4, at + type.bytes));
        readCodes(words, { bits: 4 }, codes.subarray(column, column + type.block));
      }
    },
  };
}

/**
 * The same values in the type that a reader of the layout gives, or undefined. gemv_fast holds zero points only where −scale · zero is a
 * half, as it is for zero points of 8.
 */
export function asStored(weight: LinearWeight, layout: Layout, group: number): LinearWeight | undefined {
  const own = storedRows(weight, layout, group);
  if (layout === "gemv_fast") {
    if (own) return weight;
    return storedRows(weight, "gemv", group) &&
      fits(layout, weight.out, weight.in, group === -1 ? weight.in : group)
      ? withMins(weight, true)
      : undefined;
  }
  const grid = own && integerGrid(weight);
  if (!own || !grid) return undefined;
  const { groups } = own;
  const codes = new Uint8Array(weight.in);
  const scales = new Uint32Array(groups);
  const zeros = new Uint32Array(groups);
  for (let n = 0; n < (grid.zero === "integer" ? weight.out : 1); n++) {
    own.row(n, codes, scales, zeros);
    if (zeros.some((zero) => zero > 15)) return undefined;
  }
  return regrid(weight, grid, "integer");
}

/** Zero points to mins, −scale · zero as a half; undefined where `exact` mins are wanted and halves are not. */
export function withMins(weight: LinearWeight, exact = false): LinearWeight | undefined {
  const grid = integerGrid(weight);
  if (!grid) return undefined;
  const { groups, group } = grid;
  const builder = buildGrid(weight.out, weight.in, { bits: 4, group, scale: "f16", zero: 0, min: "f16" });
  const codes = new Uint8Array(weight.in);
  const scales = new Uint32Array(groups);
  const zeros = new Uint8Array(groups);
  const mins = new Uint16Array(groups);
  for (let n = 0; n < weight.out; n++) {
    grid.row(n, codes, scales, zeros);
    for (let g = 0; g < groups; g++) {
      const min = -halfToFloat(scales[g]!) * zeros[g]!;
      mins[g] = floatToHalf(min);
      if (exact && halfToFloat(mins[g]!) !== min) return undefined;
    }
    builder.row(n, codes, scales, mins);
  }
  const { provenance: _, ...rest } = weight;
  return { ...rest, segments: builder.segments };
}
