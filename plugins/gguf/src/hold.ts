import {
  decodeScale,
  floatToHalf,
  halfToFloat,
  isUnpacked,
  type LinearWeight,
  planOf,
  type QuantType,
  rowsOf,
} from "@lowbit/core";
import { type IntegerGrid, integerGrid } from "@lowbit/packing";
import { panelsOf, putCodes, quantizeWeight } from "./quantize.ts";
import { BF16, F16, F32, ggmlTypeIds, ggmlTypes, NVFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 } from "./types.ts";

/** A matrix in one type of ggml. */
export interface GgmlMatrix {
  readonly type: QuantType;
  readonly blocks: Uint8Array;
  /** Codes and scales are the source's own. */
  readonly moved: boolean;
  /** A factor for each expert, or one: what NVFP4 has beside its blocks. */
  readonly factors?: Float32Array;
}

interface GridType {
  readonly type: QuantType;
  readonly bits: 4 | 5 | 8;
  /** Of codes; "min": a min takes its place. */
  readonly zero: number | "min";
}

/** Types for grids of integers, the smallest first. */
const gridTypes: readonly GridType[] = [
  { type: Q4_0, bits: 4, zero: 8 },
  { type: Q4_1, bits: 4, zero: "min" },
  { type: Q5_0, bits: 5, zero: 16 },
  { type: Q5_1, bits: 5, zero: "min" },
  { type: Q8_0, bits: 8, zero: 128 },
];

/**
 * The matrix with every value unchanged, in the smallest type that can: its own, a legacy type for integers with a scale in groups of 32,
 * or plain numbers. `preferred` is the plain type to try first.
 */
export function holdMatrix(weight: LinearWeight, preferred?: QuantType): GgmlMatrix {
  const held = ownMatrix(weight) ?? holdGrid(weight, gridTypes);
  if (held) return held;
  const type = holdingType(weight, preferred);
  return { type, blocks: quantizeWeight(type, weight), moved: false };
}

/** The matrix in this type, if that takes no rounding of codes. Undefined says nothing of plain numbers, which may fit all the same. */
export function holdIn(weight: LinearWeight, type: QuantType): GgmlMatrix | undefined {
  const own = ownMatrix(weight);
  if (own?.type === type) return own;
  return holdGrid(
    weight,
    gridTypes.filter((form) => form.type === type),
  );
}

/** Blocks that are ggml's already; undefined for others. */
export function ownMatrix(weight: LinearWeight): GgmlMatrix | undefined {
  const { permute, rowScale, segments, in: columns } = weight;
  const [segment] = segments;
  if (permute || !segment || segments.length > 1 || segment.to - segment.from !== columns) return undefined;
  const type = ggmlTypeOf(segment.type);
  if (type === undefined) return undefined;
  const matrix = { type, blocks: segment.blocks, moved: true };
  if (!rowScale) return matrix;
  const factors = type === NVFP4 ? expertFactors(weight, rowScale) : undefined;
  return factors && { ...matrix, factors };
}

/** Row scales that are the same for all rows of an expert. */
function expertFactors({ experts = 1, out }: LinearWeight, rowScale: Float32Array): Float32Array | undefined {
  const factors = Float32Array.from({ length: experts }, (_, e) => rowScale[e * out]!);
  return rowScale.every((factor, row) => factor === factors[Math.floor(row / out)]) ? factors : undefined;
}

/** Plain numbers that llama.cpp computes with; it has others for other ends. */
const plainTypes: readonly QuantType[] = [F32, F16, BF16];
const equals = new WeakMap<QuantType, { readonly type: QuantType | undefined }>();

/** ggml's type of the same layout, which other formats have under types of their own. */
function ggmlTypeOf(type: QuantType): QuantType | undefined {
  if (ggmlTypeIds.has(type)) return type;
  let known = equals.get(type);
  if (known === undefined) {
    const candidates = type.values.kind === "dense" ? plainTypes : [...ggmlTypes.values()];
    const found = candidates.find(
      (other) =>
        other.block === type.block && other.bytes === type.bytes && layoutOf(other) === layoutOf(type),
    );
    known = { type: found };
    equals.set(type, known);
  }
  return known.type;
}

/** Everything that a type's values depend on, as text; no two are the same for codes that a function reads. */
function layoutOf(type: QuantType): string {
  const { type: _, ...plan } = planOf(type);
  const format = type.values.kind === "dense" ? type.values.format : isUnpacked(type.code) ? type.name : "";
  return JSON.stringify([plan, format, type.round ?? ""]);
}

/** In the first of the types that can. */
function holdGrid(weight: LinearWeight, forms: readonly GridType[]): GgmlMatrix | undefined {
  const grid = forms.length > 0 ? integerGrid(weight) : undefined;
  const blocks = grid && blocksOf(weight, grid);
  if (!blocks) return undefined;
  for (const form of forms) {
    const held = fill(weight, blocks, form);
    if (held) return held;
  }
  return undefined;
}

/** A grid seen in blocks of 32 inputs. */
interface GridBlocks {
  readonly grid: IntegerGrid;
  /** Column of each input; absent: its own. */
  readonly columns?: Int32Array;
  /** The one group that all inputs of a block are in. */
  readonly groups: Int32Array;
}

/** Undefined where values are rounded, or a block would need several scales. */
function blocksOf({ in: width, permute }: LinearWeight, grid: IntegerGrid): GridBlocks | undefined {
  if (grid.round || width % 32 !== 0) return undefined;
  const columns = permute && inverse(permute);
  const groups = new Int32Array(width / 32);
  for (let input = 0; input < width; input++) {
    const group = Math.floor((columns ? columns[input]! : input) / grid.group);
    if (input % 32 === 0) groups[input / 32] = group;
    else if (groups[input >> 5] !== group) return undefined;
  }
  return { grid, ...(columns && { columns }), groups };
}

function inverse(permute: Int32Array): Int32Array {
  const columns = new Int32Array(permute.length);
  for (let column = 0; column < permute.length; column++) columns[permute[column]!] = column;
  return columns;
}

function fill(weight: LinearWeight, blocks: GridBlocks, form: GridType): GgmlMatrix | undefined {
  const { in: width, rowScale } = weight;
  const { grid, columns, groups } = blocks;
  const { type, bits, zero } = form;
  const top = 2 ** bits - 1;
  const rows = rowsOf(weight);
  const codes = new Uint8Array(width);
  const scales = new Uint32Array(grid.groups);
  const zeros = new Uint8Array(grid.groups);
  const bytes = new Uint8Array((rows * width * type.bytes) / 32);
  const out = new DataView(bytes.buffer);
  const block = new Uint8Array(32);
  let at = 0;
  for (let r = 0; r < rows; r++) {
    grid.row(r, codes, scales, zeros);
    for (let b = 0; b < groups.length; b++, at += type.bytes) {
      const g = groups[b]!;
      const shift = zero === "min" ? 0 : zero - zeros[g]!;
      for (let i = 0; i < 32; i++) {
        const input = 32 * b + i;
        const code = codes[columns ? columns[input]! : input]! + shift;
        if (code < 0 || code > top) return undefined;
        block[i] = code;
      }
      const half = rowScale || grid.scale !== "f16" ? halfScale(grid, scales[g]!, rowScale?.[r]) : scales[g]!;
      if (half === undefined) return undefined;
      out.setUint16(at, half, true);
      let codesAt = at + 2;
      if (zero === "min") {
        const min = exactHalf(-halfToFloat(half) * zeros[g]!);
        if (min === undefined) return undefined;
        out.setUint16(at + 2, min, true);
        codesAt += 2;
      }
      // Signed bytes: the codes less 128.
      if (bits === 8) for (let i = 0; i < 32; i++) out.setUint8(codesAt + i, block[i]! ^ 128);
      else putCodes(out, codesAt, bits, block);
    }
  }
  // The same codes, around the zero that this type has.
  const own = grid.bits === bits && grid.zero === zero && grid.scale === "f16" && !rowScale && !columns;
  return { type, blocks: bytes, moved: own };
}

/**
 * Bits of the half that group scale and row scale come to, if it is one. Then w = (scale · rowScale) · (code − zero) is what the source's
 * roundings give, too: factors whose product is as short as a half are short themselves, and so nothing was rounded.
 */
function halfScale({ scale }: IntegerGrid, bits: number, rowScale = 1): number | undefined {
  return exactHalf((scale === "none" ? 1 : decodeScale(scale, bits)) * rowScale);
}

function exactHalf(value: number): number | undefined {
  const half = floatToHalf(value);
  return halfToFloat(half) === value && Number.isFinite(value) ? half : undefined;
}

/** The smallest of F16, BF16 and F32 that holds every value; `first` is tried before the others. */
export function holdingType(weight: LinearWeight, first: QuantType = F16): QuantType {
  let left = first === BF16 ? [BF16, F16] : [F16, BF16];
  for (const { values } of panelsOf(weight)) {
    left = left.filter((type) => fits(values, type === F16 ? isHalf : isBf16));
    if (left.length === 0) return F32;
  }
  return left[0] ?? F32;
}

function fits(values: Float32Array, test: (bits: number) => boolean): boolean {
  for (const bits of new Uint32Array(values.buffer, values.byteOffset, values.length)) {
    if (!test(bits)) return false;
  }
  return true;
}

/** Is the f32 with these bits a half? What is no number counts as one. */
function isHalf(bits: number): boolean {
  const magnitude = bits & 0x7fffffff;
  if (magnitude === 0 || magnitude >= 0x7f800000) return true;
  const exponent = magnitude >>> 23;
  if (exponent < 103 || exponent > 142) return false;
  const unused = exponent >= 113 ? 13 : 126 - exponent;
  return (magnitude & ((1 << unused) - 1)) === 0;
}

function isBf16(bits: number): boolean {
  return (bits & 0xffff) === 0 || (bits & 0x7fffffff) > 0x7f800000;
}
