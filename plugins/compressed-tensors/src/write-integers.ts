import { type LinearWeight, type PackedTensor, type PackingOptions, rowsOf } from "@lowbit/core";
import { type IntegerGrid, integerGrid, regrid, wordsOf, writeCodes } from "@lowbit/packing";
import { layoutOf } from "./integers.ts";
import { tokens, type WrittenForm } from "./write-config.ts";
import { biasTensor, bytesOf } from "./write-floats.ts";

const dtypes = { f16: "F16", bf16: "BF16", f32: "F32" } as const;

/** The weight, or the same values in a type that a reader of the written tensors would give; undefined where there is none. */
export function holdIntegers(
  weight: LinearWeight,
  form: "bytes" | "words",
  { bits, groupSize, symmetric }: PackingOptions,
): LinearWeight | undefined {
  const grid = fittingGrid(weight, form);
  if (!grid) return undefined;
  const wantedGroup = groupSize === -1 ? weight.in : groupSize;
  const isSymmetric = grid.zero === 2 ** (grid.bits - 1);
  const asWanted =
    grid.bits === (bits ?? grid.bits) &&
    grid.group === (wantedGroup ?? grid.group) &&
    isSymmetric === (symmetric ?? isSymmetric);
  return asWanted ? regrid(weight, grid, isSymmetric ? grid.zero : "integer") : undefined;
}

/** A grid whose zero points fit its bits, and that groups whole rows evenly but for a short last group. */
function fittingGrid(weight: LinearWeight, form: "bytes" | "words"): IntegerGrid | undefined {
  const grid = integerGrid(weight);
  if (!grid || grid.bits < 2 || grid.scale === "none" || grid.round || weight.rowScale) return undefined;
  if (form === "bytes" ? weight.permute : !isClear(weight.in, grid.bits)) return undefined;
  const most = 2 ** grid.bits - 1;
  if (typeof grid.zero === "number") return grid.zero >= 0 && grid.zero <= most ? grid : undefined;
  const row = rowOf(grid, weight.in);
  for (let n = 0; n < rowsOf(weight); n++) {
    grid.row(n, row.codes, row.scales, row.zeros);
    if (row.zeros.some((zero) => zero > most)) return undefined;
  }
  return grid;
}

/** Could a reader tell the packing from the number of words? */
export function isClear(columns: number, bits: number): boolean {
  return layoutOf(columns, wordsOf(columns, bits), bits) === "dense";
}

interface GridRow {
  readonly codes: Uint8Array;
  readonly scales: Uint32Array;
  readonly zeros: Uint8Array;
}

function rowOf({ groups }: IntegerGrid, columns: number): GridRow {
  return { codes: new Uint8Array(columns), scales: new Uint32Array(groups), zeros: new Uint8Array(groups) };
}

/** An integer grid as pack-quantized or int-quantized; undefined for other weights. */
export function integerForm(weight: LinearWeight, form: "bytes" | "words"): WrittenForm | undefined {
  const grid = fittingGrid(weight, form);
  if (!grid) return undefined;
  const isRow = grid.group === weight.in;
  const symmetric = grid.zero === 2 ** (grid.bits - 1);
  const weights = {
    num_bits: grid.bits,
    type: "int",
    symmetric,
    strategy: isRow ? "channel" : "group",
    group_size: isRow ? null : grid.group,
    actorder: weight.permute ? "group" : null,
  };
  const format = form === "words" ? "pack-quantized" : "int-quantized";
  const runs = form === "bytes" && grid.bits === 8 && isRow && symmetric;
  return {
    scheme: { format, weights, activations: runs ? { ...tokens, type: "int" } : null },
    pack: (module) => packGrid(module, weight, grid, form),
  };
}

function packGrid(
  module: string,
  weight: LinearWeight,
  grid: IntegerGrid,
  form: "bytes" | "words",
): PackedTensor[] {
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
