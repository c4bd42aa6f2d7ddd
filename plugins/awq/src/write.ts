import {
  buildGrid,
  floatTensor,
  floatToHalf,
  halfToFloat,
  integerGrid,
  type LinearShape,
  type LinearWeight,
  type PackedConfiguration,
  type PackedDescription,
  type PackedTensor,
  type PackingOptions,
  type PackingWriter,
  type PlainJson,
  packingError,
  roundHalfEven,
} from "@lowbit/core";
import type { Layout } from "./config.ts";
import { type Outline, scaleAt, shapesOf, writeRow, writeZero, zeroWords } from "./layout.ts";

const groupSizes = [-1, 32, 64, 128];
const plainRoles = /^embed|^head$|router$/;

/**
 * Options: `groupSize` 32, 64, 128 or −1 (@default 128); `variant` "gemm" or "gemv" (@default "gemm"). Always 4 bits with zero points;
 * one group size for the whole checkpoint, and modules of other sizes are not held.
 */
export function awqWriter(options: PackingOptions): PackingWriter {
  const { bits = 4, groupSize: group = 128, symmetric = false } = options;
  const layout = (options.variant ?? "gemm") as Layout;
  if (bits !== 4) throw refuse(`codes of ${bits} bits are not possible, only of 4`);
  if (!groupSizes.includes(group))
    throw refuse(`groups of ${group} are not possible; 32, 64, 128 and −1 are`);
  if (layout !== "gemm" && layout !== "gemv") {
    throw refuse(`there is no variant ${JSON.stringify(layout)} to write, only "gemm" and "gemv"`);
  }
  return {
    hold: (weight) => (canHold(weight, group) ? weight : undefined),
    quantize: (values, shape) => quantize(values, shape, group, symmetric),
    pack: (module, weight) => pack(module, weight, layout, group),
    configuration: (modules, dense) => configuration(modules, dense, layout, group),
  };
}

/** Inputs and outputs fill words, and inputs groups. */
function fits(out: number, columns: number, group: number): boolean {
  return out % 8 === 0 && columns % 8 === 0 && columns % (group === -1 ? columns : group) === 0;
}

function canHold(weight: LinearWeight, group: number): boolean {
  const { out, in: columns, experts = 1, rowScale, permute } = weight;
  const grid = integerGrid(weight);
  if (!grid || experts !== 1 || rowScale || permute || !fits(out, columns, group)) return false;
  if (grid.bits !== 4 || grid.scale !== "f16" || grid.round) return false;
  if (grid.group !== (group === -1 ? columns : group)) return false;
  if (grid.zero !== "integer") return grid.zero >= 0 && grid.zero <= 15;
  const codes = new Uint8Array(columns);
  const scales = new Uint32Array(grid.groups);
  const zeros = new Uint8Array(grid.groups);
  for (let n = 0; n < out; n++) {
    grid.row(n, codes, scales, zeros);
    if (zeros.some((zero) => zero > 15)) return false;
  }
  return true;
}

/**
 * Rounds to the nearest without looking at activations: scale = (max − min) / 15 and zero = round(−min / scale) over the range of each
 * group, widened to hold 0; or around 8 if `symmetric`. AutoAWQ scales channels by their activations first.
 */
function quantize(
  values: Float32Array,
  { out, in: columns, experts = 1, role }: LinearShape,
  group: number,
  symmetric: boolean,
): LinearWeight | undefined {
  if (experts !== 1 || plainRoles.test(role) || !fits(out, columns, group)) return undefined;
  const size = group === -1 ? columns : group;
  const builder = buildGrid(out, columns, { bits: 4, group: size, scale: "f16", zero: "integer" });
  const codes = new Uint8Array(columns);
  const scales = new Uint16Array(builder.groups);
  const zeros = new Uint8Array(builder.groups);
  for (let n = 0; n < out; n++) {
    const row = values.subarray(n * columns, (n + 1) * columns);
    for (let g = 0; g < builder.groups; g++) {
      let low = 0;
      let high = 0;
      for (let k = g * size; k < (g + 1) * size; k++) {
        low = Math.min(low, row[k]!);
        high = Math.max(high, row[k]!);
      }
      const width = symmetric ? 2 * Math.max(-low, high) : high - low;
      const bits = Math.max(1, floatToHalf(width === 0 ? 1 : width / 15));
      const scale = halfToFloat(bits);
      if (!Number.isFinite(scale))
        throw refuse(`weights up to ${width} are too large for scales of half precision`);
      const zero = symmetric ? 8 : Math.min(15, Math.max(0, roundHalfEven(-low / scale)));
      for (let k = g * size; k < (g + 1) * size; k++) {
        codes[k] = Math.min(15, Math.max(0, roundHalfEven(row[k]! / scale) + zero));
      }
      scales[g] = bits;
      zeros[g] = zero;
    }
    builder.row(n, codes, scales, zeros);
  }
  return { out, in: columns, segments: builder.segments };
}

function pack(module: string, weight: LinearWeight, layout: Layout, group: number): readonly PackedTensor[] {
  const { out, in: columns, bias } = weight;
  const grid = integerGrid(weight);
  if (!grid || !canHold(weight, group)) throw refuse(`${module} is not a weight that it made or can hold`);
  const { groups } = grid;
  const outline: Outline = { out, columns, groups, words: zeroWords(columns, grid.group) };
  const shapes = shapesOf(layout, outline);
  const size = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);
  const words = new Uint32Array(size(shapes.qweight));
  const zeroWordsOut = new Uint32Array(size(shapes.qzeros));
  const scaleData = new Uint16Array(size(shapes.scales));
  const codes = new Uint8Array(columns);
  const scales = new Uint32Array(groups);
  const zeros = new Uint8Array(groups);
  for (let n = 0; n < out; n++) {
    grid.row(n, codes, scales, zeros);
    writeRow(layout, outline, words, n, codes);
    for (let g = 0; g < groups; g++) {
      scaleData[scaleAt(layout, outline, n, g)] = scales[g]!;
      writeZero(layout, outline, zeroWordsOut, n, g, zeros[g]!);
    }
  }
  const tensor = (
    suffix: keyof typeof shapes,
    dtype: PackedTensor["dtype"],
    { buffer }: Pick<Uint8Array, "buffer">,
  ): PackedTensor => ({
    name: `${module}.${suffix}`,
    dtype,
    shape: shapes[suffix],
    data: new Uint8Array(buffer),
  });
  return [
    tensor("qweight", "I32", words),
    tensor("qzeros", "I32", zeroWordsOut),
    tensor("scales", "F16", scaleData),
    ...(bias ? [floatTensor(`${module}.bias`, bias)] : []),
  ];
}

function configuration(
  modules: ReadonlyMap<string, PackedDescription>,
  dense: readonly string[],
  layout: Layout,
  group: number,
): PackedConfiguration {
  // Readers replace every other linear layer of a block, and never the head.
  const plain = dense.filter((name) => name !== "lm_head");
  const quantization: Record<string, PlainJson> = {
    quant_method: "awq",
    zero_point: true,
    group_size: group,
    bits: 4,
    version: layout,
    modules_to_not_convert: plain.length > 0 ? [...plain] : null,
  };
  if ([...modules.values()].some(({ role }) => role === "head")) quantization.lm_head = true;
  return { quantization };
}

function refuse(what: string): Error {
  return packingError("awq", "option", `AWQ: ${what}`, "bad-argument");
}
