import { denseType, type LinearWeight, type QuantType, rowsOf, type SafetensorsTensor } from "@lowbit/core";
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
    segments: first.segments.map((segment, i) => {
      const blocks = new Uint8Array(segment.blocks.length * weights.length);
      weights.forEach((weight, e) => {
        blocks.set(weight.segments[i]?.blocks ?? new Uint8Array(0), e * segment.blocks.length);
      });
      return { ...segment, blocks };
    }),
  };
}

/** A plain matrix [rows, columns] of items of `size` bytes as [columns, rows]. */
export function transpose(bytes: Uint8Array, rows: number, columns: number, size: number): Uint8Array {
  const out = new Uint8Array(bytes.length);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const from = (r * columns + c) * size;
      const to = (c * rows + r) * size;
      for (let b = 0; b < size; b++) out[to + b] = bytes[from + b]!;
    }
  }
  return out;
}

export function shapeError(what: string): Error {
  return safetensorsError("file-corrupt", "shape-mismatch", `${what}.`);
}
