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
  wordsOf,
  writeCodes,
} from "@lowbit/core";

const possibleBits = [2, 3, 4, 8];
/** Packers leave embeddings, heads and the small matrices that choose experts plain. */
const plainRoles = /^embed|^head$|router$/;

interface Settings {
  readonly bits: number;
  /** −1 for whole rows. */
  readonly group: number;
  readonly symmetric: boolean;
  readonly format: "gptq" | "gptq_v2";
}

/**
 * Options: `bits` 2, 3, 4 or 8 (@default 4); `groupSize` (@default 128; −1 for whole rows); `symmetric` (@default true); `variant`
 * "gptq" or "gptq_v2" (@default "gptq" for symmetric weights, which every reader knows; others "gptq_v2", because version 1 has no zero
 * point 0).
 */
export function gptqWriter(options: PackingOptions): PackingWriter {
  const { bits = 4, groupSize: group = 128, symmetric = true } = options;
  const format = options.variant ?? (symmetric ? "gptq" : "gptq_v2");
  if (!possibleBits.includes(bits)) throw refuse(`codes of ${bits} bits are not possible; 2, 3, 4 and 8 are`);
  if (group !== -1 && (!Number.isSafeInteger(group) || group < 8 || group % 8 !== 0)) {
    throw refuse(`groups of ${group} are not possible; multiples of 8, and −1 for whole rows, are`);
  }
  if (format !== "gptq" && format !== "gptq_v2") {
    throw refuse(`there is no variant ${JSON.stringify(format)}, only "gptq" and "gptq_v2"`);
  }
  const settings: Settings = { bits, group, symmetric, format };
  return {
    hold: (weight) => (canHold(weight, format) ? weight : undefined),
    quantize: (values, shape) => quantize(values, shape, settings),
    pack: (module, weight) => pack(module, weight, format),
    describe,
    configuration: (modules) => configuration(modules, settings),
  };
}

function canHold(weight: LinearWeight, format: Settings["format"]): boolean {
  const { out, in: columns, experts = 1, rowScale } = weight;
  const grid = integerGrid(weight);
  if (!grid || experts !== 1 || rowScale) return false;
  const { bits, zero, round } = grid;
  const fills = (columns * bits) % 32 === 0 && (out * bits) % 32 === 0;
  if (!possibleBits.includes(bits) || !fills || grid.scale === "none" || round) return false;
  const limit = 2 ** bits;
  const lowest = format === "gptq" ? 1 : 0;
  if (zero !== "integer") return zero >= lowest && zero < limit;
  const row = rowRoom(columns, grid.groups);
  for (let n = 0; n < out; n++) {
    grid.row(n, row.codes, row.scales, row.zeros);
    if (row.zeros.some((z) => z < lowest || z >= limit)) return false;
  }
  return true;
}

function rowRoom(
  columns: number,
  groups: number,
): { codes: Uint8Array; scales: Uint32Array; zeros: Uint8Array } {
  return { codes: new Uint8Array(columns), scales: new Uint32Array(groups), zeros: new Uint8Array(groups) };
}

/**
 * Rounds to the nearest, each group with the range of its weights: symmetric scale = 2·max|w| / (2^b − 1) around 2^(b−1); else
 * (max − min) / (2^b − 1) with the range widened to hold 0. Scales are rounded to halves first, so that codes fit what is stored.
 */
function quantize(
  values: Float32Array,
  { out, in: columns, experts = 1, role }: LinearShape,
  { bits, group, symmetric }: Settings,
): LinearWeight | undefined {
  const fills = (columns * bits) % 32 === 0 && (out * bits) % 32 === 0;
  if (experts !== 1 || plainRoles.test(role) || !fills) return undefined;
  const size = group === -1 ? columns : Math.min(group, columns);
  const middle = 2 ** (bits - 1);
  const top = 2 ** bits - 1;
  const builder = buildGrid(out, columns, {
    bits,
    group: size,
    scale: "f16",
    zero: symmetric ? middle : "integer",
  });
  const { codes, scales, zeros } = rowRoom(columns, builder.groups);
  for (let n = 0; n < out; n++) {
    const row = values.subarray(n * columns, (n + 1) * columns);
    for (let g = 0; g < builder.groups; g++) {
      const end = Math.min((g + 1) * size, columns);
      let low = 0;
      let high = 0;
      for (let k = g * size; k < end; k++) {
        low = Math.min(low, row[k]!);
        high = Math.max(high, row[k]!);
      }
      const width = symmetric ? 2 * Math.max(-low, high) : high - low;
      const bitsOfScale = Math.max(1, floatToHalf(width === 0 ? 1 : width / top));
      const scale = halfToFloat(bitsOfScale);
      if (!Number.isFinite(scale))
        throw refuse(`weights up to ${width} are too large for scales of half precision`);
      const zero = symmetric ? middle : Math.min(top, Math.max(0, roundHalfEven(-low / scale)));
      for (let k = g * size; k < end; k++) {
        codes[k] = Math.min(top, Math.max(0, roundHalfEven(row[k]! / scale) + zero));
      }
      scales[g] = bitsOfScale;
      zeros[g] = zero;
    }
    builder.row(n, codes, scales, zeros);
  }
  return { out, in: columns, segments: builder.segments };
}

function pack(module: string, weight: LinearWeight, format: Settings["format"]): readonly PackedTensor[] {
  const { out, in: columns, permute, bias } = weight;
  const grid = integerGrid(weight);
  if (!grid || !canHold(weight, format)) throw refuse(`${module} is not a weight that it made or can hold`);
  const { bits, group, groups, scale } = grid;
  const mask = 2 ** bits - 1;
  const words = new Uint32Array(wordsOf(columns, bits) * out);
  const scaleData = scale === "f32" ? new Uint32Array(groups * out) : new Uint16Array(groups * out);
  const zeros = new Uint8Array(groups * out);
  const row = rowRoom(columns, groups);
  const stored = new Uint8Array(columns);
  for (let n = 0; n < out; n++) {
    grid.row(n, row.codes, row.scales, row.zeros);
    for (let j = 0; j < columns; j++) stored[permute ? permute[j]! : j] = row.codes[j]!;
    writeCodes(words, { bits, at: n, stride: out }, stored);
    for (let g = 0; g < groups; g++) {
      scaleData[g * out + n] = row.scales[g]!;
      zeros[g * out + n] = format === "gptq" ? (row.zeros[g]! - 1) & mask : row.zeros[g]!;
    }
  }
  const perRow = (out * bits) / 32;
  const zeroWords = new Uint32Array(groups * perRow);
  for (let g = 0; g < groups; g++) {
    writeCodes(zeroWords, { bits, at: g * perRow }, zeros.subarray(g * out, (g + 1) * out));
  }
  const index = new Int32Array(columns);
  for (let j = 0; j < columns; j++) index[permute ? permute[j]! : j] = Math.floor(j / group);
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
    tensor("g_idx", "I32", [columns], index),
    ...(bias ? [floatTensor(`${module}.bias`, bias)] : []),
  ];
}

/** What modules may differ in. */
function describe(weight: LinearWeight): Readonly<Record<string, PlainJson>> {
  const grid = integerGrid(weight);
  if (!grid) throw refuse("a weight is no grid of integers");
  return {
    bits: grid.bits,
    group_size: grid.group === weight.in ? -1 : grid.group,
    inputs: weight.in,
    sym: grid.zero === 2 ** (grid.bits - 1),
    desc_act: weight.permute !== undefined,
  };
}

/** The settings of most modules become those of the model, and others overrides, as GPTQModel has them. */
function configuration(
  modules: ReadonlyMap<string, PackedDescription>,
  { bits, group, symmetric, format }: Settings,
): PackedConfiguration {
  const own = [...modules.values()].map(({ bits, group_size, inputs }) => ({ bits, group_size, inputs }));
  const count = new Map<string, number>();
  // A group as wide as a module's rows is written −1, and fits any module with as many inputs.
  for (const { bits, group_size } of own) {
    const key = JSON.stringify({ bits, group_size });
    count.set(key, (count.get(key) ?? 0) + 1);
  }
  const [most] = [...count].sort(([, a], [, b]) => b - a)[0] ?? [];
  const main = most === undefined ? { bits, group_size: group } : (JSON.parse(most) as (typeof own)[number]);
  const dynamic: Record<string, PlainJson> = {};
  for (const [name, module] of modules) {
    const { bits, group_size, inputs } = module as PackedDescription & { group_size: number; inputs: number };
    const wide = (size: PlainJson | undefined): PlainJson | undefined => (size === inputs ? -1 : size);
    if (bits === main.bits && wide(group_size) === wide(main.group_size)) continue;
    dynamic[`+:^${name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`] = { bits: bits ?? 0, group_size };
  }
  const all = [...modules.values()];
  const quantization = {
    bits: main.bits ?? bits,
    group_size: main.group_size ?? group,
    damp_percent: 0.01,
    desc_act: all.some(({ desc_act }) => desc_act === true),
    static_groups: false,
    sym: all.length === 0 ? symmetric : all.every(({ sym }) => sym === true),
    lm_head: all.some(({ role }) => role === "head"),
    true_sequential: true,
    quant_method: "gptq",
    checkpoint_format: format,
    ...(Object.keys(dynamic).length > 0 && { dynamic }),
  };
  return { quantization, files: { "quantize_config.json": quantization } };
}

function refuse(what: string): Error {
  return packingError("gptq", "option", `GPTQ: ${what}`, "bad-argument");
}
