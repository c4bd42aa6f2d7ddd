import {
  buildGrid,
  floatToBits,
  type GridShape,
  gridShapeOf,
  type IntegerGrid,
  integerGrid,
  type LinearShape,
  type LinearWeight,
  type PackedTensor,
  type PackingOptions,
  roundHalfEven,
  roundToBf16,
  rowsOf,
  wordsOf,
  writeCodes,
} from "@lowbit/core";
import { biasTensor, bytesOf } from "./write-floats.ts";

const dtypes = { f16: "F16", bf16: "BF16", f32: "F32" } as const;
/** Scale of a group of nothing but zeros: the reference's smallest step of bfloat16. */
const scaleOfZeros = 2 ** -7;

/** The weight, or the same values in a type that a reader of the written tensors would give; undefined where there is none. */
export function holdIntegers(
  weight: LinearWeight,
  form: "bytes" | "words",
  { bits, groupSize, symmetric }: PackingOptions,
): LinearWeight | undefined {
  const grid = fittingGrid(weight, form);
  if (!grid) return undefined;
  const wantedGroup = groupSize === -1 ? weight.in : groupSize;
  const middle = 2 ** (grid.bits - 1);
  const isSymmetric = grid.zero === middle;
  const asWanted =
    grid.bits === (bits ?? grid.bits) &&
    grid.group === (wantedGroup ?? grid.group) &&
    isSymmetric === (symmetric ?? isSymmetric);
  if (!asWanted) return undefined;
  const order = orderWithinGroups(weight.permute, grid.group);
  const own = weight.segments.every(({ type }) => {
    const shape = gridShapeOf(type);
    return shape !== undefined && (shape.zero === "integer" || shape.zero === middle);
  });
  if (own && !order) return weight;
  const { scale, group } = grid;
  const shape: GridShape = { bits: grid.bits, group, scale, zero: isSymmetric ? middle : "integer" };
  const rows = rowsOf(weight);
  const builder = buildGrid(rows, weight.in, shape);
  const row = rowOf(grid, weight.in);
  const sorted = new Uint8Array(weight.in);
  for (let n = 0; n < rows; n++) {
    grid.row(n, row.codes, row.scales, row.zeros);
    for (let j = 0; j < sorted.length; j++) sorted[j] = row.codes[order ? order[j]! : j]!;
    builder.row(n, sorted, row.scales, row.zeros);
  }
  const { provenance: _, permute: from, ...rest } = weight;
  const permute = order && from ? order.map((j) => from[j]!) : from;
  // Groups of consecutive inputs need no permutation.
  const stays = permute?.some((input, j) => input !== j);
  return { ...rest, segments: builder.segments, ...(permute && stays && { permute }) };
}

/** A grid whose zero points fit its bits, and that groups whole rows evenly but for a short last group. */
function fittingGrid(weight: LinearWeight, form: "bytes" | "words"): IntegerGrid | undefined {
  const grid = integerGrid(weight);
  if (!grid || grid.bits < 2 || grid.scale === "none" || grid.round || weight.rowScale) return undefined;
  if (form === "bytes" && weight.permute) return undefined;
  const most = 2 ** grid.bits - 1;
  if (typeof grid.zero === "number") return grid.zero >= 0 && grid.zero <= most ? grid : undefined;
  const row = rowOf(grid, weight.in);
  for (let n = 0; n < rowsOf(weight); n++) {
    grid.row(n, row.codes, row.scales, row.zeros);
    if (row.zeros.some((zero) => zero > most)) return undefined;
  }
  return grid;
}

interface GridRow {
  readonly codes: Uint8Array;
  readonly scales: Uint32Array;
  readonly zeros: Uint8Array;
}

function rowOf({ groups }: IntegerGrid, columns: number): GridRow {
  return { codes: new Uint8Array(columns), scales: new Uint32Array(groups), zeros: new Uint8Array(groups) };
}

/** Positions in order of their inputs inside of each group, as a reader sorts them; undefined where that is how they are. */
function orderWithinGroups(permute: Int32Array | undefined, group: number): Int32Array | undefined {
  if (!permute) return undefined;
  const order = Int32Array.from(permute.keys());
  for (let from = 0; from < order.length; from += group) {
    order.subarray(from, from + group).sort((a, b) => permute[a]! - permute[b]!);
  }
  return order.every((j, at) => j === at) ? undefined : order;
}

/** The tensors of an integer grid: pack-quantized, or int-quantized. Undefined for other weights. */
export function packIntegers(
  module: string,
  weight: LinearWeight,
  form: "bytes" | "words",
): PackedTensor[] | undefined {
  const grid = fittingGrid(weight, form);
  if (!grid) return undefined;
  const { bits, groups } = grid;
  const { out, in: columns, permute } = weight;
  const middle = 2 ** (bits - 1);
  const width = wordsOf(columns, bits);
  const words = new Uint32Array(form === "words" ? out * width : 0);
  const bytes = new Uint8Array(form === "bytes" ? out * columns : 0);
  const scales = grid.scale === "f32" ? new Uint32Array(out * groups) : new Uint16Array(out * groups);
  const zeros = new Uint8Array(out * groups);
  const row = rowOf(grid, columns);
  const codes = new Uint8Array(columns);
  for (let n = 0; n < out; n++) {
    grid.row(n, row.codes, row.scales, row.zeros);
    for (let j = 0; j < columns; j++) codes[permute ? permute[j]! : j] = row.codes[j]!;
    if (form === "words") writeCodes(words, { bits, at: n * width }, codes);
    else for (let k = 0; k < columns; k++) bytes[n * columns + k] = codes[k]! - middle;
    scales.set(row.scales, n * groups);
    zeros.set(row.zeros, n * groups);
  }
  const tensor = (
    part: string,
    dtype: PackedTensor["dtype"],
    shape: readonly number[],
    data: Uint8Array,
  ) => ({
    name: `${module}.${part}`,
    dtype,
    shape,
    data,
  });
  const tensors = [
    form === "words"
      ? tensor("weight_packed", "I32", [out, width], bytesOf(words))
      : tensor("weight", "I8", [out, columns], bytes),
    tensor("weight_scale", dtypes[grid.scale as keyof typeof dtypes], [out, groups], bytesOf(scales)),
    ...biasTensor(module, weight),
  ];
  if (form === "words") {
    const shape = bytesOf(BigInt64Array.of(BigInt(out), BigInt(columns)));
    tensors.push(tensor("weight_shape", "I64", [2], shape));
  }
  if (grid.zero !== middle) {
    tensors.push(
      form === "words"
        ? tensor(
            "weight_zero_point",
            "I32",
            [wordsOf(out, bits), groups],
            packZeros(zeros, out, groups, bits),
          )
        : tensor(
            "weight_zero_point",
            "I8",
            [out, groups],
            zeros.map((zero) => zero - middle),
          ),
    );
  }
  if (permute) {
    const index = new Int32Array(columns);
    for (let j = 0; j < columns; j++) index[permute[j]!] = Math.floor(j / grid.group);
    tensors.push(tensor("weight_g_idx", "I32", [columns], bytesOf(index)));
  }
  return tensors;
}

/** Streams down the columns of [words, groups]. */
function packZeros(zeros: Uint8Array, rows: number, groups: number, bits: number): Uint8Array {
  const words = new Uint32Array(wordsOf(rows, bits) * groups);
  const column = new Uint8Array(rows);
  for (let g = 0; g < groups; g++) {
    for (let n = 0; n < rows; n++) column[n] = zeros[n * groups + g]!;
    writeCodes(words, { bits, at: g, stride: groups }, column);
  }
  return bytesOf(words);
}

export interface IntegerChoice {
  readonly bits: number;
  readonly group: number;
  readonly symmetric: boolean;
}

/**
 * To the nearest, as compressed-tensors does without calibration: scale = 2·max|w| / (2^b − 1), or (max − min) / (2^b − 1) where
 * min ≤ 0 ≤ max; scales are bfloat16.
 */
export function quantizeIntegers(
  values: Float32Array,
  { out, in: columns, experts }: LinearShape,
  { bits, group, symmetric }: IntegerChoice,
): LinearWeight {
  const rows = out * (experts ?? 1);
  const most = 2 ** bits - 1;
  const middle = 2 ** (bits - 1);
  const builder = buildGrid(rows, columns, {
    bits,
    group,
    scale: "bf16",
    zero: symmetric ? middle : "integer",
  });
  const { groups } = builder;
  const codes = new Uint8Array(columns);
  const scales = new Uint16Array(groups);
  const zeros = new Uint8Array(groups);
  for (let n = 0; n < rows; n++) {
    const row = values.subarray(n * columns, (n + 1) * columns);
    for (let g = 0; g < groups; g++) {
      const end = Math.min((g + 1) * group, columns);
      let min = 0;
      let max = 0;
      for (let k = g * group; k < end; k++) {
        min = Math.min(min, row[k]!);
        max = Math.max(max, row[k]!);
      }
      const range = symmetric ? 2 * Math.max(max, -min) : max - min;
      const scale = roundToBf16(Math.fround(range / most)) || scaleOfZeros;
      const zero = symmetric ? middle : Math.max(0, Math.min(most, roundHalfEven(Math.fround(-min / scale))));
      for (let k = g * group; k < end; k++) {
        const code = roundHalfEven(Math.fround(Math.fround(row[k]! / scale) + zero));
        codes[k] = Math.max(0, Math.min(most, code));
      }
      scales[g] = floatToBits(scale) >>> 16;
      zeros[g] = zero;
    }
    builder.row(n, codes, scales, zeros);
  }
  return { out, in: columns, ...(experts !== undefined && { experts }), segments: builder.segments };
}
