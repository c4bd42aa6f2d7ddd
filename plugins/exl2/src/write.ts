import {
  floatToHalf,
  halfToFloat,
  type LinearShape,
  type LinearWeight,
  type LowbitError,
  type PackedConfiguration,
  type PackedDescription,
  type PackedTensor,
  type PackingOptions,
  type PackingWriter,
} from "@lowbit/core";
import { gridShapeOf, wordsOf, writeCodes } from "@lowbit/packing";
import { copySpan, fail, type Span, spansOf, widths } from "./layout.ts";
import { headGroups, layerGroups, orderByNorm, quantizeExl2 } from "./quantize.ts";
import { type SplitScales, splitScales } from "./scales.ts";

/** Modules that stay plain: tables of embeddings and the small matrices that choose experts. */
const plainRoles = /^embed|router$/;
const headBits = 6;

/**
 * Options: `bits`, 2.3 to 8, of an average weight of the layers with everything stored beside the codes (@default 5; a head has
 * 6-bit codes); `groupSize` 32, 64 or 128 (@default 128, 32 for fewer than 1024 inputs).
 */
export function exl2Writer(options: PackingOptions): PackingWriter {
  const { bits = 5, groupSize, symmetric = true, variant } = options;
  if (!(bits >= 2.3 && bits <= 8)) throw refuse(`${bits} bits are not possible; 2.3 to 8 are`);
  if (groupSize !== undefined && ![32, 64, 128].includes(groupSize))
    throw refuse(`groups of ${groupSize} are not possible; 32, 64 and 128 are`);
  if (!symmetric) throw refuse("it has no zero points, its codes are symmetric");
  if (variant !== undefined) throw refuse(`there is no variant ${JSON.stringify(variant)}, or any other`);
  return {
    hold: (weight) => (partsOf(weight) ? weight : undefined),
    quantize: (values, shape) => quantize(values, shape, bits, groupSize),
    pack,
    configuration: (modules) => configuration(modules, bits),
  };
}

function quantize(
  values: Float32Array,
  { out, in: columns, experts = 1, role }: LinearShape,
  bits: number,
  groupSize: number | undefined,
): LinearWeight | undefined {
  if (experts !== 1 || plainRoles.test(role) || columns % 32 !== 0) return undefined;
  const size = groupSize ?? (columns < 1024 ? 32 : 128);
  const spans = role === "head" ? headGroups(columns) : layerGroups(bits, out, columns, size);
  // Experts of one layer are run as one stack, whose inputs have one order.
  const byNorm = orderByNorm(values, out, columns);
  const order = /\.experts\./.test(role) ? byNorm.sort() : byNorm;
  return quantizeExl2(values, out, columns, spans, order);
}

interface Parts {
  readonly spans: readonly Span[];
  /** Words of the codes, [words, outputs filled up to 32]. */
  readonly words: Uint32Array;
  readonly padded: number;
  /** One for each group. */
  readonly scales: readonly SplitScales[];
}

/** The parts of a weight whose types and scales are EXL2's; undefined for any other. */
function partsOf(weight: LinearWeight): Parts | undefined {
  const { out, in: columns, experts = 1, rowScale, segments } = weight;
  if (experts !== 1 || rowScale || columns % 16 !== 0) return undefined;
  const groups: { bits: number; size: number }[] = [];
  let end = 0;
  for (const { type, from, to } of segments) {
    const shape = gridShapeOf(type);
    if (!shape || from !== end || shape.scale !== "f16" || shape.round !== "f16" || shape.min)
      return undefined;
    const { bits, group, zero } = shape;
    const fits = widths.some((width) => width === bits) && group % (bits === 2 ? 16 : 32) === 0;
    if (!fits || zero !== 2 ** (bits - 1) || bits > (groups.at(-1)?.bits ?? 8)) return undefined;
    for (; end < to; end += group) groups.push({ bits, size: group });
    if (end !== to) return undefined;
  }
  if (end !== columns || segments.length === 0) return undefined;
  const spans = spansOf(groups);
  // Segments that could have been one have been split by someone else; a reader would see other ones.
  if (spans.length !== segments.length) return undefined;
  const padded = Math.ceil(out / 32) * 32;
  const words = new Uint32Array(
    spans.reduce((sum, { to, from, bits }) => sum + ((to - from) * bits) / 32, 0) * padded,
  );
  const hints = scaleMaxOf(weight, groups.length);
  const scales: SplitScales[] = [];
  for (const [i, span] of spans.entries()) {
    const halves = new Uint16Array(span.groups * out);
    fillPadding(words, span, padded, out);
    copySpan(span, words, padded, segments[i]!.blocks, out, halves, "to-words");
    for (let g = 0; g < span.groups; g++) {
      const split = splitScales(halves.subarray(g * out, (g + 1) * out), hints[scales.length]);
      if (!split) return undefined;
      scales.push(split);
    }
  }
  return { spans, words, padded, scales };
}

/** Maxima that a reader saw; they are tried first. */
function scaleMaxOf({ provenance }: LinearWeight, groups: number): readonly (number | undefined)[] {
  const own = provenance?.exl2;
  const list = typeof own === "object" && own !== null && "scaleMax" in own ? own.scaleMax : undefined;
  if (!Array.isArray(list) || list.length !== groups) return [];
  return list.map((max: unknown) =>
    typeof max === "number" && Number.isInteger(max) && (max & 0x7c00) !== 0x7c00 ? max & 0xffff : undefined,
  );
}

/** Columns beyond the outputs hold the code of zero. */
function fillPadding(
  words: Uint32Array,
  { bits, from, to, firstWord }: Span,
  padded: number,
  out: number,
): void {
  const zeros = new Uint8Array(to - from).fill(2 ** (bits - 1));
  for (let n = out; n < padded; n++)
    writeCodes(words, { bits, at: firstWord * padded + n, stride: padded }, zeros);
}

function pack(module: string, weight: LinearWeight): readonly PackedTensor[] {
  const parts = partsOf(weight);
  if (!parts) throw refuse(`${module} is not a weight that it made or can hold`);
  const { spans, words, padded, scales } = parts;
  const { in: columns, permute, bias } = weight;
  const inverse = new Int32Array(columns);
  for (let j = 0; j < columns; j++) inverse[permute ? permute[j]! : j] = j;
  const nibbles = new Uint32Array(wordsOf(scales.length * padded, 4));
  for (const [g, { codes }] of scales.entries())
    writeCodes(nibbles, { bits: 4, at: (g * padded) / 8 }, codes);
  const table = spans.flatMap(({ bits, size, groups, firstWord }) =>
    Array.from({ length: groups }, (_, g) => [bits, firstWord + (g * size * bits) / 32]).flat(),
  );
  if (table.some((row) => row > 65_535)) {
    throw refuse(`${module} has ${columns} inputs; groups must begin in the first 65536 rows of words`);
  }
  const tensor = (
    suffix: string,
    dtype: PackedTensor["dtype"],
    shape: readonly number[],
    { buffer }: Pick<Uint8Array, "buffer">,
  ): PackedTensor => ({ name: `${module}.${suffix}`, dtype, shape, data: new Uint8Array(buffer) });
  return [
    tensor("q_weight", "I32", [words.length / padded, padded], words),
    tensor("q_invperm", "I32", [columns], inverse),
    tensor("q_scale", "I32", [scales.length, padded / 8], nibbles),
    tensor(
      "q_scale_max",
      "F16",
      [scales.length],
      Uint16Array.from(scales, ({ max }) => max),
    ),
    tensor("q_groups", "I16", [table.length], Uint16Array.from(table)),
    ...(bias ? [biasTensor(`${module}.bias`, bias)] : []),
  ];
}

/** Halves, as the reference writes it, unless that would change it. */
function biasTensor(name: string, bias: Float32Array): PackedTensor {
  const halves = Uint16Array.from(bias, floatToHalf);
  const exact = bias.every((value, i) => Object.is(halfToFloat(halves[i]!), value));
  const data = new Uint8Array(exact ? halves.buffer : bias.slice().buffer);
  return { name, dtype: exact ? "F16" : "F32", shape: [bias.length], data };
}

function configuration(modules: ReadonlyMap<string, PackedDescription>, bits: number): PackedConfiguration {
  const hasHead = [...modules.values()].some(({ role }) => role === "head");
  return {
    quantization: {
      quant_method: "exl2",
      version: "0.3.2",
      bits,
      head_bits: hasHead ? headBits : 16,
      // Nothing was calibrated; readers that show these fields find them.
      calibration: { rows: 0, length: 0, dataset: "(none)" },
    },
    baseName: "output",
  };
}

function refuse(what: string): LowbitError {
  return fail("option", `EXL2: ${what}`, "bad-argument");
}
