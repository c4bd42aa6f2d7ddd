import type {
  LinearShape,
  LinearWeight,
  PackedConfiguration,
  PackedDescription,
  PackedTensor,
  PackingOptions,
  PackingWriter,
  PlainJson,
} from "@lowbit/core";
import { floatTensor, packingError, quantizeGrid } from "@lowbit/packing";
import type { Layout } from "./config.ts";
import { asStored, storedRows, withMins } from "./grid.ts";
import { fits, type Outline, scaleAt, shapesOf, writeRow, writeZero, zeroWords } from "./layout.ts";

const groupSizes = [-1, 32, 64, 128];
const layouts: readonly Layout[] = ["gemm", "gemv", "gemv_fast"];
/** Packers leave embeddings, heads and the small matrices that choose experts plain. */
const plainRoles = /^embed|^head$|router$/;

/**
 * Options: `groupSize` 32, 64, 128 or −1 (@default 128); `symmetric` puts all zero points at 8 (@default false); `variant` "gemm", "gemv"
 * or "gemv_fast" (@default "gemm"). Always 4 bits; one group size for the whole checkpoint, and modules of other sizes are not held.
 */
export function awqWriter(options: PackingOptions): PackingWriter {
  const { bits = 4, groupSize: group = 128, symmetric = false } = options;
  const layout = layouts.find((known) => known === (options.variant ?? "gemm"));
  if (bits !== 4) throw refuse(`codes of ${bits} bits are not possible, only of 4`);
  if (!groupSizes.includes(group)) {
    throw refuse(`groups of ${group} are not possible; 32, 64, 128 and −1 are`);
  }
  if (!layout) {
    throw refuse(`there is no variant ${JSON.stringify(options.variant)}, only ${layouts.join(", ")}`);
  }
  return {
    hold: (weight) => asStored(weight, layout, group),
    quantize: (values, shape) => quantize(values, shape, layout, group, symmetric),
    pack: (module, weight) => pack(module, weight, layout, group),
    configuration: (modules, dense) => configuration(modules, dense, layout, group),
  };
}

/** To the nearest, without a look at activations; AutoAWQ scales channels by them first. */
function quantize(
  values: Float32Array,
  { out, in: columns, experts = 1, role }: LinearShape,
  layout: Layout,
  group: number,
  symmetric: boolean,
): LinearWeight | undefined {
  const size = group === -1 ? columns : group;
  if (experts !== 1 || plainRoles.test(role) || !fits(layout, out, columns, size)) return undefined;
  const zero = symmetric ? 8 : ("integer" as const);
  const segments = quantizeGrid(values, columns, { bits: 4, group: size, scale: "f16", zero });
  const weight: LinearWeight = { out, in: columns, segments };
  return layout === "gemv_fast" ? withMins(weight) : asStored(weight, layout, group);
}

function pack(module: string, weight: LinearWeight, layout: Layout, group: number): readonly PackedTensor[] {
  const { out, in: columns, bias } = weight;
  const rows = storedRows(weight, layout, group);
  if (!rows) throw refuse(`${module} is not a weight that it made or can hold`);
  const { groups } = rows;
  const outline: Outline = { out, columns, groups, words: zeroWords(columns, columns / groups) };
  const shapes = shapesOf(layout, outline);
  const size = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);
  const fast = layout === "gemv_fast";
  const words = new Uint32Array((out * columns) / 8);
  const zeroData = fast ? new Uint16Array(size(shapes.qzeros)) : new Uint32Array(size(shapes.qzeros));
  const scaleData = new Uint16Array(size(shapes.scales));
  const codes = new Uint8Array(columns);
  const scales = new Uint32Array(groups);
  const zeros = new Uint32Array(groups);
  for (let n = 0; n < out; n++) {
    rows.row(n, codes, scales, zeros);
    writeRow(layout, outline, words, n, codes);
    for (let g = 0; g < groups; g++) {
      const at = scaleAt(layout, outline, n, g);
      scaleData[at] = scales[g]!;
      if (fast) zeroData[at] = zeros[g]!;
      else writeZero(layout, outline, zeroData as Uint32Array, n, g, zeros[g]!);
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
    tensor("qweight", fast ? "I16" : "I32", words),
    tensor("qzeros", fast ? "F16" : "I32", zeroData),
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
