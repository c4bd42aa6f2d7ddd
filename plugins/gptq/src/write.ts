import type {
  LinearShape,
  LinearWeight,
  PackedTensor,
  PackingOptions,
  PackingWriter,
  PlainJson,
} from "@lowbit/core";
import {
  floatTensor,
  type IntegerGrid,
  integerGrid,
  packingError,
  quantizeGrid,
  regrid,
  wordsOf,
  writeCodes,
} from "@lowbit/packing";
import { bitsOf, continuousBits, type GptqConfig, gptqFormats, planarBits, unitOf } from "./config.ts";
import { groupIndex } from "./order.ts";
import { writePlanes } from "./planes.ts";
import { configuration, type Settings } from "./write-config.ts";

type GptqFormat = GptqConfig["format"];

/** Packers leave embeddings, heads and the small matrices that choose experts plain. */
const plainRoles = /^embed|^head$|router$/;

/**
 * Options: `bits` 2 to 8 (@default 4); `groupSize` (@default 128; −1 for whole rows); `symmetric` (@default true); `variant` "gptq",
 * "gptq_v2" or "gptq_p" (@default "gptq" for symmetric weights, which every reader knows; others "gptq_v2", because version 1 has no zero
 * point 0; only "gptq_p" has 5, 6 and 7 bits). Weights that are held keep their own bits and groups.
 */
export function gptqWriter(options: PackingOptions): PackingWriter {
  const { bits = 4, groupSize: group = 128, symmetric = true } = options;
  const planarOnly = planarBits.includes(bits) && !continuousBits.includes(bits);
  const usual = planarOnly ? "gptq_p" : symmetric ? "gptq" : "gptq_v2";
  const format = gptqFormats.find((known) => known === (options.variant ?? usual));
  if (!format) {
    const known = gptqFormats.join(", ");
    throw refuse(`there is no variant ${JSON.stringify(options.variant)}, only ${known}`);
  }
  const possible = bitsOf(format);
  if (!possible.includes(bits)) {
    throw refuse(`codes of ${bits} bits are not possible in ${format}, only of ${possible.join(", ")}`);
  }
  if (group !== -1 && (!Number.isSafeInteger(group) || group < 8 || group % 8 !== 0)) {
    throw refuse(`groups of ${group} are not possible; multiples of 8, and −1 for whole rows, are`);
  }
  const settings: Settings = { bits, group, symmetric, format };
  return {
    hold: (weight) => hold(weight, format),
    quantize: (values, shape) => quantize(values, shape, settings),
    pack: (module, weight) => pack(module, weight, format),
    describe: (weight) => describe(weight, format),
    configuration: (modules) => configuration(modules, settings),
  };
}

function fillsWords(
  { out, in: columns }: LinearShape | LinearWeight,
  bits: number,
  format: GptqFormat,
): boolean {
  const unit = unitOf(bits, format);
  return out % unit === 0 && columns % unit === 0;
}

/** The grid of a weight that can be packed but for its zero points. */
function fittingGrid(weight: LinearWeight, format: GptqFormat): IntegerGrid | undefined {
  const grid = integerGrid(weight);
  if (!grid || (weight.experts ?? 1) !== 1 || weight.rowScale || grid.scale === "none" || grid.round) {
    return undefined;
  }
  const { bits } = grid;
  return bitsOf(format).includes(bits) && fillsWords(weight, bits, format) ? grid : undefined;
}

/** Version 1 stores zero points minus one, and readers disagree on what stands for 0. */
function holdsZero(zero: number, { bits }: IntegerGrid, format: GptqFormat): boolean {
  return zero >= (format === "gptq" ? 1 : 0) && zero < 2 ** bits;
}

function hold(weight: LinearWeight, format: GptqFormat): LinearWeight | undefined {
  const grid = fittingGrid(weight, format);
  if (!grid) return undefined;
  const { codes, scales, zeros } = rowRoom(weight.in, grid.groups);
  for (let n = 0; n < (grid.zero === "integer" ? weight.out : 1); n++) {
    grid.row(n, codes, scales, zeros);
    if (!zeros.every((zero) => holdsZero(zero, grid, format))) return undefined;
  }
  return regrid(weight, grid, grid.zero === 2 ** (grid.bits - 1) ? grid.zero : "integer");
}

interface GridRow {
  readonly codes: Uint8Array;
  readonly scales: Uint32Array;
  readonly zeros: Uint8Array;
}

function rowRoom(columns: number, groups: number): GridRow {
  return { codes: new Uint8Array(columns), scales: new Uint32Array(groups), zeros: new Uint8Array(groups) };
}

function quantize(
  values: Float32Array,
  shape: LinearShape,
  { bits, group, symmetric, format }: Settings,
): LinearWeight | undefined {
  const { out, in: columns, experts = 1, role } = shape;
  if (experts !== 1 || plainRoles.test(role) || !fillsWords(shape, bits, format)) return undefined;
  const segments = quantizeGrid(values, columns, {
    bits,
    group: group === -1 ? columns : Math.min(group, columns),
    scale: "f16",
    zero: symmetric ? 2 ** (bits - 1) : "integer",
    lowestZero: format === "gptq" ? 1 : 0,
  });
  return { out, in: columns, segments };
}

function pack(module: string, weight: LinearWeight, format: GptqFormat): readonly PackedTensor[] {
  const { out, in: columns, permute, bias } = weight;
  const grid = fittingGrid(weight, format);
  if (!grid) throw refuse(`${module} is not a weight that it made or can hold`);
  const { bits, group, groups, scale } = grid;
  const words = new Uint32Array(wordsOf(columns, bits) * out);
  const scaleData = scale === "f32" ? new Uint32Array(groups * out) : new Uint16Array(groups * out);
  const zeros = new Uint8Array(groups * out);
  const row = rowRoom(columns, groups);
  const stored = new Uint8Array(columns);
  const write = format === "gptq_p" ? writePlanes : writeCodes;
  for (let n = 0; n < out; n++) {
    grid.row(n, row.codes, row.scales, row.zeros);
    for (let j = 0; j < columns; j++) stored[permute ? permute[j]! : j] = row.codes[j]!;
    write(words, { bits, at: n, stride: out }, stored);
    for (let g = 0; g < groups; g++) {
      const zero = row.zeros[g]!;
      if (!holdsZero(zero, grid, format)) throw refuse(`${module} has a zero point ${zero}`);
      scaleData[g * out + n] = row.scales[g]!;
      zeros[g * out + n] = format === "gptq" ? zero - 1 : zero;
    }
  }
  const perRow = (out * bits) / 32;
  const zeroWords = new Uint32Array(groups * perRow);
  for (let g = 0; g < groups; g++) {
    write(zeroWords, { bits, at: g * perRow }, zeros.subarray(g * out, (g + 1) * out));
  }
  const tensor = (
    suffix: string,
    dtype: PackedTensor["dtype"],
    shape: readonly number[],
    { buffer }: Pick<Uint8Array, "buffer">,
  ): PackedTensor => ({ name: `${module}.${suffix}`, dtype, shape, data: new Uint8Array(buffer) });
  return [
    tensor("qweight", "I32", [wordsOf(columns, bits), out], words),
    tensor("qzeros", "I32", [groups, perRow], zeroWords),
    tensor("scales", scale === "f32" ? "F32" : scale === "bf16" ? "BF16" : "F16", [groups, out], scaleData),
    tensor("g_idx", "I32", [columns], groupIndex(columns, group, permute)),
    ...(bias ? [floatTensor(`${module}.bias`, bias)] : []),
  ];
}

/** What modules may differ in. */
function describe(weight: LinearWeight, format: GptqFormat): Readonly<Record<string, PlainJson>> {
  const grid = fittingGrid(weight, format);
  if (!grid) throw refuse("a weight is not one that it made or can hold");
  return {
    bits: grid.bits,
    group_size: grid.group === weight.in ? -1 : grid.group,
    inputs: weight.in,
    sym: grid.zero === 2 ** (grid.bits - 1),
    desc_act: weight.permute !== undefined,
  };
}

function refuse(what: string): Error {
  return packingError("gptq", "option", `GPTQ: ${what}`, "bad-argument");
}
