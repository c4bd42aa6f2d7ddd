import { type LinearWeight, rowsOf } from "@lowbit/core";
import { buildGrid, type GridShape, gridShapeOf, type IntegerGrid } from "./integer-grid.ts";

/**
 * The same values as readers of integer grids make them: blocks of `gridType`, the inputs of a group in ascending order, and no
 * permutation where that leaves all inputs where they are. A weight that is so already comes back as it is.
 * @param grid `integerGrid(weight)`
 * @param zero the zero point of all groups, if they have one; or "integer", which keeps them with their groups
 */
export function regrid(weight: LinearWeight, grid: IntegerGrid, zero: number | "integer"): LinearWeight {
  const { in: columns, permute } = weight;
  const { bits, group, groups, scale, round } = grid;
  const order = permute && orderWithinGroups(permute, group);
  const idle = permute?.every((input, j) => input === j) ?? false;
  const own = weight.segments.every(({ type }) => gridShapeOf(type)?.zero === zero);
  if (own && !order && !idle) return weight;
  const shape: GridShape = { bits, group, scale, zero, ...(round && { round }) };
  const rows = rowsOf(weight);
  const builder = buildGrid(rows, columns, shape);
  const codes = new Uint8Array(columns);
  const sorted = order ? new Uint8Array(columns) : codes;
  const scales = new Uint32Array(groups);
  const zeros = new Uint8Array(groups);
  for (let row = 0; row < rows; row++) {
    grid.row(row, codes, scales, zeros);
    if (order) for (let j = 0; j < columns; j++) sorted[j] = codes[order[j]!]!;
    builder.row(row, sorted, scales, zeros);
  }
  const { permute: _, provenance: __, ...rest } = weight;
  const moved = permute && order ? order.map((j) => permute[j]!) : permute;
  const moves = moved?.some((input, j) => input !== j) ?? false;
  return { ...rest, segments: builder.segments, ...(moved && moves && { permute: moved }) };
}

/** Positions in the order of their inputs inside of each group; undefined where that is how they are. */
function orderWithinGroups(permute: Int32Array, group: number): Int32Array | undefined {
  const order = Int32Array.from(permute.keys());
  for (let from = 0; from < order.length; from += group) {
    order.subarray(from, from + group).sort((a, b) => permute[a]! - permute[b]!);
  }
  return order.every((j, at) => j === at) ? undefined : order;
}
