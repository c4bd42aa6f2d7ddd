import {
  denseType,
  type LinearWeight,
  type PlainJson,
  type QuantType,
  rowsOf,
  type SafetensorsTensor,
} from "@lowbit/core";
import { safetensorsError } from "./errors.ts";

/** Types of plain tensors. */
export const denseTypes: Readonly<Partial<Record<SafetensorsTensor["dtype"], QuantType>>> = {
  F64: denseType("F64", "f64"),
  F32: denseType("F32", "f32"),
  F16: denseType("F16", "f16"),
  BF16: denseType("BF16", "bf16"),
  F8_E4M3: denseType("F8_E4M3", "f8-e4m3"),
  F8_E5M2: denseType("F8_E5M2", "f8-e5m2"),
};

/** The order in which rows that pair dimensions (i, i + d/2) become rows that pair (2i, 2i + 1), or back. */
export function pairingOrder(
  rows: number,
  headSize: number,
  direction: "to-adjacent" | "to-halves",
): Int32Array {
  const half = headSize / 2;
  const order = new Int32Array(rows);
  for (let row = 0; row < rows; row++) {
    const within = row % headSize;
    const [i, b] = [within >> 1, within & 1];
    const adjacent = row - within + b * half + i;
    if (direction === "to-adjacent") order[row] = adjacent;
    else order[adjacent] = row;
  }
  return order;
}

/** Row r of the result is row order[r]: blocks, biases and row scales move as they are. */
export function reorderRows(weight: LinearWeight, order: Int32Array): LinearWeight {
  const rows = rowsOf(weight);
  if (order.length !== rows) throw shapeError(`${order.length} rows of heads, but a weight of ${rows}`);
  const moved = (values: Float32Array | undefined): Float32Array | undefined =>
    values && Float32Array.from(order, (row) => values[row] ?? 0);
  const bias = moved(weight.bias);
  const rowScale = moved(weight.rowScale);
  return {
    ...weight,
    ...(bias && { bias }),
    ...(rowScale && { rowScale }),
    segments: weight.segments.map((segment) => {
      const perRow = segment.blocks.length / rows;
      const blocks = new Uint8Array(segment.blocks.length);
      for (let r = 0; r < rows; r++) {
        const from = (order[r] ?? 0) * perRow;
        blocks.set(segment.blocks.subarray(from, from + perRow), r * perRow);
      }
      return { ...segment, blocks };
    }),
  };
}

/** Experts' matrices as one stack. They must agree in everything but their values. */
export function stackExperts(role: string, weights: readonly LinearWeight[]): LinearWeight {
  const [first] = weights;
  if (first === undefined) throw shapeError(`${role} has no experts`);
  const same = (weight: LinearWeight): boolean =>
    weight.out === first.out &&
    weight.in === first.in &&
    weight.segments.length === first.segments.length &&
    weight.segments.every(({ type, from, to }, i) => {
      const other = first.segments[i];
      return type === other?.type && from === other.from && to === other.to;
    });
  if (!weights.every(same)) {
    throw safetensorsError(
      "type-unsupported",
      "mixed-experts",
      `${role}: its experts are quantized differently.`,
      {
        hint: "A mixture's experts are run as one stack, which needs one type for all.",
      },
    );
  }
  const order = first.permute;
  const ordered = (weight: LinearWeight): boolean =>
    weight.permute?.length === order?.length && (weight.permute?.every((k, j) => k === order?.[j]) ?? true);
  if (!weights.every(ordered)) {
    const what = `${role}: each expert has its inputs in an order of its own.`;
    throw safetensorsError("type-unsupported", "mixed-experts", what, {
      hint: "Use a checkpoint that was quantized without activation order (desc_act: false).",
    });
  }
  const joined = (pick: (weight: LinearWeight) => Float32Array | undefined): Float32Array | undefined => {
    if (!weights.some(pick)) return undefined;
    const values = new Float32Array(first.out * weights.length);
    for (const [e, weight] of weights.entries()) values.set(pick(weight) ?? [], e * first.out);
    return values;
  };
  const bias = joined((weight) => weight.bias);
  const rowScale = joined((weight) => weight.rowScale);
  if (rowScale && !weights.every((weight) => weight.rowScale)) {
    throw shapeError(`${role}: some experts have row scales and others have none`);
  }
  return {
    out: first.out,
    in: first.in,
    experts: weights.length,
    ...(bias && { bias }),
    ...(order && { permute: order }),
    ...(rowScale && { rowScale }),
    ...(weights.some(({ provenance }) => provenance) && {
      provenance: { experts: weights.map(({ provenance }) => provenance ?? {}) },
    }),
    segments: first.segments.map((segment, i) => {
      const blocks = new Uint8Array(segment.blocks.length * weights.length);
      weights.forEach((weight, e) => {
        blocks.set(weight.segments[i]?.blocks ?? new Uint8Array(0), e * segment.blocks.length);
      });
      return { ...segment, blocks };
    }),
  };
}

/** One expert of a stack, with what `stackExperts` kept of it. */
export function unstackExpert(weight: LinearWeight, expert: number): LinearWeight {
  const { out, provenance } = weight;
  const { provenance: _, ...own } = sliceRows(weight, expert * out, (expert + 1) * out);
  const all = provenance?.experts;
  const kept = Array.isArray(all) ? (all as readonly PlainJson[])[expert] : undefined;
  const isObject = typeof kept === "object" && kept !== null && !Array.isArray(kept);
  return isObject ? { ...own, provenance: kept as { readonly [packing: string]: PlainJson } } : own;
}

/** Rows [from, to), counted over all experts, as a matrix of their own. */
export function sliceRows(weight: LinearWeight, from: number, to: number): LinearWeight {
  const rows = rowsOf(weight);
  const { experts: _, bias, rowScale, ...rest } = weight;
  return {
    ...rest,
    out: to - from,
    ...(bias && { bias: bias.slice(from, to) }),
    ...(rowScale && { rowScale: rowScale.slice(from, to) }),
    segments: weight.segments.map((segment) => {
      const perRow = segment.blocks.length / rows;
      return { ...segment, blocks: segment.blocks.subarray(from * perRow, to * perRow) };
    }),
  };
}

/** A plain matrix [rows, columns] of items of `size` bytes as [columns, rows]. */
export function transpose(bytes: Uint8Array, rows: number, columns: number, size: number): Uint8Array {
  const View = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: Float64Array }[size];
  if (View === undefined) throw shapeError(`items of ${size} bytes cannot be transposed`);
  const aligned = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  const from = new View(aligned.buffer as ArrayBuffer, aligned.byteOffset, rows * columns);
  const out = new View(rows * columns);
  for (let c = 0; c < columns; c++) {
    for (let r = 0; r < rows; r++) out[c * rows + r] = from[r * columns + c]!;
  }
  return new Uint8Array(out.buffer);
}

export function shapeError(what: string): Error {
  return safetensorsError("file-corrupt", "shape-mismatch", `${what}.`);
}
