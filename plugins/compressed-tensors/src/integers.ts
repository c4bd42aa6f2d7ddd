import type { SafetensorsTensor } from "@lowbit/core";
import {
  buildGrid,
  floatDtypes,
  floatFormats,
  type GridShape,
  type ModuleTensors,
  type OpenModule,
  readCodes,
  wordsFrom,
  wordsOf,
} from "@lowbit/packing";
import { fail, invalid, unread } from "./modules.ts";

export interface IntegerScheme {
  readonly bits: number;
  readonly symmetric: boolean;
  readonly strategy: "tensor" | "channel" | "group";
  /** Columns that share a scale, where the strategy is "group". */
  readonly group: number | undefined;
}

/** Releases before 2026 put floor(32 / bits) codes in a word; later ones let codes straddle words. */
type Layout = "dense" | "whole-codes";

/** Scales of a weight of `rows` rows: one for all, one for each row, or one for each group of a row. */
interface Scales {
  readonly tensor: SafetensorsTensor;
  /** In a row. */
  readonly groups: number;
}

/** pack-quantized: codes in 32-bit words. Reads `weight_shape`, as words and groups do not tell where rows end. */
export async function openPacked(
  site: ModuleTensors,
  scheme: IntegerScheme,
  signal?: AbortSignal,
): Promise<OpenModule> {
  const { bits, group } = scheme;
  checkBits(site, bits);
  const packed = site.need("weight_packed", ["I32", "U32"], [undefined, undefined]);
  const shape = site.maybe("weight_shape", ["I64", "I32"], [2]);
  const [rows, words] = packed.shape as [number, number];
  const scales = needScales(site, scheme, rows);
  const declared = shape && (await sizes(site, shape, signal));
  // Without a declaration rows are taken to end with a group, or with a word.
  const columns =
    declared?.[1] ?? (group === undefined ? Math.floor((words * 32) / bits) : scales.groups * group);
  if (declared && declared[0] !== rows) {
    const what = `${site.where} is [${rows}, ${columns}], its weight_shape says [${declared.join(", ")}]`;
    throw fail("shape-mismatch", what);
  }
  const layout = layoutOf(columns, words, bits);
  if (layout === undefined) {
    throw fail(
      "shape-mismatch",
      `${site.where}: ${columns} codes of ${bits} bits do not fill ${words} words`,
    );
  }
  if (layout === "ambiguous") {
    const what = `${site.where}: ${words} words may hold ${columns} codes of ${bits} bits in two ways`;
    throw fail("unsupported-variant", what, "format-unsupported");
  }
  checkGroups(site, scheme, scales, columns);
  const zeros = needZeros(site, scheme, rows, scales.groups, layout);
  const order = site.maybe("weight_g_idx", ["I32", "I64"], [columns]);
  const grid = gridOf(scheme, scales, columns);
  return site.open(
    outline(rows, columns, grid),
    async (signal) => {
      const [codes, scale, zero, index] = await Promise.all([
        site.checkpoint.read(packed, signal),
        site.scaleBits(scales.tensor, signal),
        zeros && site.checkpoint.read(zeros, signal),
        order && sizes(site, order, signal),
      ]);
      const permute = index && sortByGroup(site, index, grid.group, scales.groups);
      const { groups } = scales;
      const scaleBits = rowsOfScales(scale, rows * groups);
      const zeroCodes = zeros && zero && unpackZeros(site, scheme, zero, zeros, rows, groups, layout);
      const builder = buildGrid(rows, columns, grid);
      const stream = wordsFrom(codes);
      const row = new Uint8Array(columns);
      const sorted = permute ? new Uint8Array(columns) : row;
      for (let n = 0, at = 0; n < rows; n++, at += groups) {
        const rowScales = scaleBits.subarray(at, at + groups);
        const rowZeros = zeroCodes?.subarray(at, at + groups);
        if (!permute && layout === "dense") {
          builder.stream(n, stream.subarray(n * words, (n + 1) * words), rowScales, rowZeros);
          continue;
        }
        unpack(stream, bits, n * words, 1, layout, row);
        if (permute) for (let j = 0; j < columns; j++) sorted[j] = row[permute[j]!]!;
        builder.row(n, sorted, rowScales, rowZeros);
      }
      return { segments: builder.segments, ...(permute && { permute }) };
    },
    { unread },
  );
}

/** int-quantized: a signed byte for each code. */
export function openBytes(site: ModuleTensors, scheme: IntegerScheme): OpenModule {
  const { bits } = scheme;
  checkBits(site, bits);
  const weight = site.need("weight", ["I8"], [undefined, undefined]);
  const [rows, columns] = weight.shape as [number, number];
  const scales = needScales(site, scheme, rows);
  const { groups } = scales;
  checkGroups(site, scheme, scales, columns);
  const zeros = needZeros(site, scheme, rows, groups, "dense");
  const grid = gridOf(scheme, scales, columns);
  return site.open(
    outline(rows, columns, grid),
    async (signal) => {
      const [bytes, scale, zero] = await Promise.all([
        site.checkpoint.read(weight, signal),
        site.scaleBits(scales.tensor, signal),
        zeros && site.checkpoint.read(zeros, signal),
      ]);
      const scaleBits = rowsOfScales(scale, rows * groups);
      const zeroCodes = zeros && zero && unpackZeros(site, scheme, zero, zeros, rows, groups, "dense");
      const builder = buildGrid(rows, columns, grid);
      const row = new Uint8Array(columns);
      const middle = 2 ** (bits - 1);
      for (let n = 0; n < rows; n++) {
        for (let k = 0, at = n * columns; k < columns; k++, at++) row[k] = bytes[at]! + middle;
        // Bytes outside −middle … middle − 1 come out above the largest code.
        if (bits < 8 && row.some((code) => code >= 2 * middle)) {
          throw fail("invalid-value", `${site.where}: row ${n} has a value outside ${bits} bits`);
        }
        builder.row(n, row, scaleBits.subarray(n * groups), zeroCodes?.subarray(n * groups));
      }
      return { segments: builder.segments };
    },
    { unread },
  );
}

function checkBits({ where }: ModuleTensors, bits: number): void {
  if (bits >= 2 && bits <= 8) return;
  throw fail(
    "unsupported-bits",
    `${where} has codes of ${bits} bits; 2 to 8 are possible`,
    "type-unsupported",
  );
}

function gridOf(scheme: IntegerScheme, { tensor }: Scales, columns: number): GridShape {
  return {
    bits: scheme.bits,
    group: Math.min(scheme.group ?? columns, columns),
    scale: floatFormats[tensor.dtype as keyof typeof floatFormats],
    zero: scheme.symmetric ? 2 ** (scheme.bits - 1) : "integer",
  };
}

function outline(
  rows: number,
  columns: number,
  grid: GridShape,
): Pick<OpenModule, "out" | "in" | "segments"> {
  const segments = buildGrid(0, columns, grid).segments.map(({ type, from, to }) => ({ type, from, to }));
  return { out: rows, in: columns, segments };
}

function needScales(site: ModuleTensors, { strategy }: IntegerScheme, rows: number): Scales {
  const tensor = site.need("weight_scale", floatDtypes);
  const { shape } = tensor;
  const [first, groups = 1] = shape;
  const one = shape.every((size) => size === 1);
  const each = first === rows && shape.length <= 2 && groups >= 1;
  if (strategy === "tensor" ? one : each && (strategy === "group" || groups === 1)) return { tensor, groups };
  const expected = strategy === "tensor" ? "[1]" : `[${rows}, ${strategy === "channel" ? 1 : "?"}]`;
  throw fail("shape-mismatch", `${site.where}: weight_scale is [${shape.join(", ")}], expected ${expected}`);
}

function checkGroups(
  site: ModuleTensors,
  { group }: IntegerScheme,
  { groups }: Scales,
  columns: number,
): void {
  const expected = group === undefined ? 1 : Math.ceil(columns / group);
  if (groups === expected) return;
  throw fail(
    "shape-mismatch",
    `${site.where}: ${groups} scales in a row of ${columns}, expected ${expected}`,
  );
}

/** Packed along the outputs; signed bytes in files of some releases and beside plain codes. */
function needZeros(
  site: ModuleTensors,
  { symmetric, bits }: IntegerScheme,
  rows: number,
  groups: number,
  layout: Layout,
): SafetensorsTensor | undefined {
  const tensor = site.maybe("weight_zero_point", ["I32", "I8"]);
  if (!tensor) {
    if (symmetric) return undefined;
    throw fail("missing-tensor", `${site.where} is not symmetric, and has no tensor weight_zero_point`);
  }
  const packed = layout === "dense" ? wordsOf(rows, bits) : Math.ceil(rows / Math.floor(32 / bits));
  const [first, second = 1] = tensor.shape;
  const expected = tensor.dtype === "I8" ? rows : packed;
  if (tensor.shape.length <= 2 && first === expected && second === groups) return tensor;
  const { shape } = tensor;
  throw fail(
    "shape-mismatch",
    `${site.where}: weight_zero_point is [${shape.join(", ")}], expected [${expected}, ${groups}]`,
  );
}

/** Zero points as unsigned codes, row by row; undefined for a symmetric weight, of which all are zero. */
function unpackZeros(
  site: ModuleTensors,
  { bits, symmetric }: IntegerScheme,
  bytes: Uint8Array,
  { dtype }: SafetensorsTensor,
  rows: number,
  groups: number,
  layout: Layout,
): Uint8Array | undefined {
  const middle = 2 ** (bits - 1);
  const zeros = new Uint8Array(rows * groups);
  if (dtype === "I8") for (let i = 0; i < zeros.length; i++) zeros[i] = bytes[i]! + middle;
  else {
    const words = wordsFrom(bytes);
    const column = new Uint8Array(rows);
    for (let g = 0; g < groups; g++) {
      unpack(words, bits, g, groups, layout, column);
      for (let n = 0; n < rows; n++) zeros[n * groups + g] = column[n]!;
    }
  }
  if (!symmetric) return zeros;
  if (zeros.every((zero) => zero === middle)) return undefined;
  throw invalid(`${site.where} is declared symmetric, yet has zero points`);
}

function unpack(
  words: Uint32Array,
  bits: number,
  at: number,
  stride: number,
  layout: Layout,
  codes: Uint8Array,
): void {
  if (layout === "dense") {
    readCodes(words, { bits, at, stride }, codes);
    return;
  }
  const each = Math.floor(32 / bits);
  const mask = 2 ** bits - 1;
  for (let i = 0, from = at; i < codes.length; from += stride) {
    let word = words[from]!;
    for (const end = Math.min(i + each, codes.length); i < end; i++, word >>>= bits) codes[i] = word & mask;
  }
}

/** How so many words hold so many codes; undefined where they do not. */
export function layoutOf(columns: number, words: number, bits: number): Layout | "ambiguous" | undefined {
  const dense = words === wordsOf(columns, bits);
  const whole = words === Math.ceil(columns / Math.floor(32 / bits));
  // One word looks the same in both, and so do all words where codes never straddle.
  if (dense) return whole && 32 % bits !== 0 && words > 1 ? "ambiguous" : "dense";
  return whole ? "whole-codes" : undefined;
}

function rowsOfScales<T extends Uint16Array | Uint32Array>(bits: T, count: number): T {
  if (bits.length === count) return bits;
  const each = bits instanceof Uint16Array ? new Uint16Array(count) : new Uint32Array(count);
  return each.fill(bits[0]!) as T;
}

/** Columns ordered by group, stably; undefined where that is their order, or −1 says that there are no indices. */
function sortByGroup(
  site: ModuleTensors,
  index: readonly number[],
  group: number,
  groups: number,
): Int32Array | undefined {
  if (index.every((g) => g === -1)) return undefined;
  const next = Array.from({ length: groups }, (_, g) => g * group);
  const order = new Int32Array(index.length);
  let sorted = true;
  for (const [k, g] of index.entries()) {
    const at = next[g];
    if (at === undefined)
      throw fail("invalid-index", `${site.where}: column ${k} is in group ${g} of ${groups}`);
    if (at >= Math.min((g + 1) * group, index.length)) {
      throw fail("invalid-index", `${site.where}: group ${g} has more than ${group} columns`);
    }
    order[at] = k;
    next[g] = at + 1;
    sorted &&= at === k;
  }
  return sorted ? undefined : order;
}

async function sizes(
  site: ModuleTensors,
  tensor: SafetensorsTensor,
  signal?: AbortSignal,
): Promise<number[]> {
  const bytes = await site.checkpoint.read(tensor, signal);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = tensor.shape[0]!;
  return Array.from({ length: count }, (_, i) =>
    tensor.dtype === "I64" ? Number(view.getBigInt64(i * 8, true)) : view.getInt32(i * 4, true),
  );
}
