import type { LinearWeight } from "@lowbit/core";
import { dynamicMap, type Nested, nest, nestedCodes, unnest } from "./nested.ts";
import { type QuantState, stateDtypes } from "./state.ts";
import { bookOf, bookType, type FourBit, finite, fp4Values, nf4Values } from "./types.ts";

/** The parts of a 4-bit weight as they lie in files, absmaxes as f32. */
export interface FourBitParts {
  readonly state: QuantState;
  /** The 16 values. */
  readonly table: Float32Array;
  /** Two codes in a byte, the first one high; through the rows without a break. */
  readonly packed: Uint8Array;
  /** One absmax for each `state.blockSize` codes. */
  readonly absmax: Float32Array;
  readonly nested?: Nested;
}

/** The largest block that lies within rows: where blocks cross from row to row, each piece repeats the absmax. */
export function blockOf({ blockSize, in: columns }: Pick<QuantState, "blockSize" | "in">): number {
  let block = blockSize;
  while (columns % block !== 0) block /= 2;
  return block;
}

export function fourBitWeight({ state, table, packed, absmax, nested }: FourBitParts): LinearWeight {
  const { out, in: columns, kind, blockSize, dtype } = state;
  const block = blockOf(state);
  const type = bookType(kind, table, block);
  const blocks = new Uint8Array(((out * columns) / block) * type.bytes);
  const view = new DataView(blocks.buffer);
  for (let first = 0, at = 0; first < out * columns; first += block, at += type.bytes) {
    view.setFloat32(at, absmax[Math.floor(first / blockSize)]!, true);
    if (block === 1) blocks[at + 4] = (packed[first >> 1]! >> (first % 2 === 0 ? 4 : 0)) & 15;
    else blocks.set(packed.subarray(first / 2, (first + block) / 2), at + 4);
  }
  const map = nested?.map.every((level, i) => level === dynamicMap[i]) ? undefined : nested?.map;
  const nestedParts = nested && {
    blockSize: nested.blockSize,
    offset: nested.offset,
    outer: [...nested.outer],
    ...(map && { map: [...map] }),
  };
  return {
    out,
    in: columns,
    segments: [{ type, from: 0, to: columns, blocks }],
    // The values tell neither the size of blocks that cross rows, nor how absmaxes were quantized.
    provenance: { bitsandbytes: { blockSize, dtype, ...(nestedParts && { nested: nestedParts }) } },
  };
}

/** The inverse; undefined for weights of other types, and for absmaxes that no legal block size spreads so. */
export function fourBitParts(weight: LinearWeight): FourBitParts | undefined {
  const { out, in: columns, experts = 1, permute, rowScale, segments } = weight;
  const [segment] = segments;
  const book = segment && bookOf(segment.type);
  if (!book || segments.length !== 1 || segment.to - segment.from !== columns) return undefined;
  if (experts !== 1 || permute || rowScale) return undefined;
  const { type, blocks } = segment;
  const count = out * columns;
  const packed = new Uint8Array(Math.ceil(count / 2));
  const pieces = new Float32Array(count / type.block);
  const view = new DataView(blocks.buffer, blocks.byteOffset, blocks.byteLength);
  for (let i = 0, at = 0; i < pieces.length; i++, at += type.bytes) {
    pieces[i] = view.getFloat32(at, true);
    const first = i * type.block;
    if (type.block > 1) packed.set(blocks.subarray(at + 4, at + type.bytes), first / 2);
    else packed[first >> 1] = packed[first >> 1]! | ((blocks[at + 4]! & 15) << (first % 2 === 0 ? 4 : 0));
  }
  const own = provenanceOf(weight);
  for (const blockSize of [own.blockSize, type.block, 64, 32, 128, 256, 512, 1024, 2048, 4096]) {
    if (blockSize === undefined || blockSize < 32 || blockSize % type.block !== 0) continue;
    const absmax = merge(pieces, blockSize / type.block);
    if (!absmax) continue;
    const state = { kind: book.kind, blockSize, dtype: own.dtype, out, in: columns };
    const parts = { state, table: book.table, packed, absmax };
    const { nested } = own;
    return nested && nestedCodes(absmax, nested) ? { ...parts, state: { ...state, nested }, nested } : parts;
  }
  return undefined;
}

/** One absmax for each `count` pieces, which must agree. */
function merge(pieces: Float32Array, count: number): Float32Array | undefined {
  const merged = new Float32Array(Math.ceil(pieces.length / count));
  for (let i = 0; i < pieces.length; i++) {
    if (i % count === 0) merged[i / count] = pieces[i]!;
    else if (merged[Math.floor(i / count)] !== pieces[i]) return undefined;
  }
  return merged;
}

interface Provenance {
  readonly dtype: string;
  readonly blockSize?: number;
  readonly nested?: Nested;
}

/** What `fourBitWeight` left, if it is whole. */
function provenanceOf({ provenance }: LinearWeight): Provenance {
  const own = provenance?.bitsandbytes;
  const get = (from: unknown, key: string): unknown =>
    typeof from === "object" && from !== null && key in from
      ? (from as Record<string, unknown>)[key]
      : undefined;
  const size = (from: unknown): number | undefined => {
    const value = get(from, "blockSize");
    return typeof value === "number" && value >= 32 && value <= 4096 && Number.isInteger(Math.log2(value))
      ? value
      : undefined;
  };
  const dtype = stateDtypes.find((dtype) => dtype === get(own, "dtype")) ?? "float16";
  const blockSize = size(own);
  const common = { dtype, ...(blockSize && { blockSize }) };
  const nested = get(own, "nested");
  const [outerSize, offset] = [size(nested), get(nested, "offset")];
  const [outer, map = [...dynamicMap]] = [get(nested, "outer"), get(nested, "map")];
  if (outerSize === undefined || typeof offset !== "number" || !isNumbers(outer) || !isNumbers(map))
    return common;
  if (map.length !== 256) return common;
  const arrays = { outer: Float32Array.from(outer), map: Float32Array.from(map) };
  return { ...common, nested: { blockSize: outerSize, offset: Math.fround(offset), ...arrays } };
}

function isNumbers(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((item) => typeof item === "number");
}

/** Rounds by the reference's rule: each block is scaled into [−1, 1] and takes the nearest values, of two equally near the lower one. */
export function quantizeFourBit(
  values: Float32Array,
  out: number,
  columns: number,
  options: { kind: FourBit; blockSize: number; nested: boolean },
): LinearWeight {
  const { kind, blockSize } = options;
  const table = kind === "nf4" ? nf4Values : fp4Values;
  const order = Uint8Array.from(table.keys()).sort((a, b) => table[a]! - table[b]! || b - a);
  const middles = Float32Array.from(
    { length: 15 },
    (_, i) => Math.fround(table[order[i]!]! + table[order[i + 1]!]!) / 2,
  );
  const packed = new Uint8Array(Math.ceil(values.length / 2));
  const absmax = new Float32Array(Math.ceil(values.length / blockSize));
  for (let b = 0, i = 0; b < absmax.length; b++) {
    const end = Math.min(values.length, i + blockSize);
    let most = 0;
    for (let k = i; k < end; k++) most = Math.max(most, Math.abs(values[k]!));
    absmax[b] = finite(most);
    for (; i < end; i++) {
      // Zero over zero is zero here, not NaN.
      const scaled = most === 0 ? 0 : Math.fround(values[i]! / most);
      let rank = 0;
      for (let half = 8; half > 0; half >>= 1) if (scaled > middles[rank + half - 1]!) rank += half;
      packed[i >> 1] = packed[i >> 1]! | (order[rank]! << (i % 2 === 0 ? 4 : 0));
    }
  }
  const state = { kind, blockSize, dtype: "float16", out, in: columns };
  if (!options.nested) return fourBitWeight({ state, table, packed, absmax });
  const { nested, codes } = nest(absmax, 256);
  return fourBitWeight({ state: { ...state, nested }, table, packed, absmax: unnest(codes, nested), nested });
}
