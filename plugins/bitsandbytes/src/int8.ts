import { type LinearWeight, roundHalfEven } from "@lowbit/core";
import { buildGrid, integerGrid } from "@lowbit/packing";
import { finite, int8Factor, int8Shape } from "./types.ts";

/** `rows` are i8 as in the file, [out, columns]; `scb` one absmax for each row. */
export function int8Weight(rows: Uint8Array, scb: Float32Array, columns: number): LinearWeight {
  const out = scb.length;
  const grid = buildGrid(out, columns, int8Shape(columns));
  const codes = new Uint8Array(columns);
  const scales = new Uint32Array(grid.groups);
  const bits = new Uint32Array(scb.buffer, scb.byteOffset, out);
  for (let r = 0; r < out; r++) {
    // Two's complement plus 128.
    for (let i = 0; i < columns; i++) codes[i] = rows[r * columns + i]! ^ 128;
    grid.row(r, codes, scales.fill(bits[r]!));
  }
  return { out, in: columns, segments: grid.segments, rowScale: new Float32Array(out).fill(int8Factor) };
}

/** The inverse; undefined for weights of other types. */
export function int8Parts(weight: LinearWeight): { rows: Uint8Array; scb: Float32Array } | undefined {
  const { out, in: columns, experts = 1, permute, rowScale } = weight;
  if (experts !== 1 || permute || !rowScale?.every((scale) => scale === int8Factor)) return undefined;
  const grid = integerGrid(weight);
  if (grid?.bits !== 8 || grid.zero !== 128 || grid.scale !== "f32" || grid.round) return undefined;
  const rows = new Uint8Array(out * columns);
  const scb = new Uint32Array(out);
  const scales = new Uint32Array(grid.groups);
  const zeros = new Uint8Array(grid.groups);
  for (let r = 0; r < out; r++) {
    const codes = rows.subarray(r * columns, (r + 1) * columns);
    grid.row(r, codes, scales, zeros);
    if (scales.some((scale) => scale !== scales[0])) return undefined;
    scb[r] = scales[0]!;
    for (let i = 0; i < columns; i++) codes[i] = codes[i]! ^ 128;
  }
  return { rows, scb: new Float32Array(scb.buffer) };
}

/** Rounds each row by its absmax, in f32 as the reference does; no column is taken for an outlier. */
export function quantizeInt8(values: Float32Array, out: number, columns: number): LinearWeight {
  const rows = new Uint8Array(out * columns);
  const scb = new Float32Array(out);
  for (let r = 0; r < out; r++) {
    const row = values.subarray(r * columns, (r + 1) * columns);
    const most = row.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    scb[r] = finite(most);
    if (most === 0) continue;
    const factor = Math.fround(127 / most);
    for (let i = 0; i < columns; i++) {
      rows[r * columns + i] = Math.max(-127, Math.min(127, roundHalfEven(Math.fround(row[i]! * factor))));
    }
  }
  return int8Weight(rows, scb, columns);
}
