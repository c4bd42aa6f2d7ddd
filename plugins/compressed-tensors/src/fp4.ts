import {
  bitsToFloat,
  e4m3ToFloat,
  floatToBits,
  type QuantType,
  type SafetensorsTensor,
  type ScaleFormat,
} from "@lowbit/core";
import type { ModuleTensors, OpenModule, ShapePattern } from "@lowbit/packing";
import { finitePowers } from "./fp8.ts";
import { fail, unread } from "./modules.ts";

/** E2M1, doubled: scales are halved in turn, as in ggml. */
const levels = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

const types = new Map<string, QuantType>();
const maxTypes = 64;
const scaleBits = { "e8m0-half": 8, "ue4m3-half": 8, f32: 32 } as const;
export type Fp4Scale = keyof typeof scaleBits;

/**
 * Blocks [scales of the groups][codes]; the low nibbles of a group's bytes are its first half. With groups of 32 and powers of two
 * that is ggml's MXFP4, with groups of 16 in blocks of 64 its NVFP4, and these go by the same names.
 */
export function fp4Type(group: number, columns: number, format: Fp4Scale): QuantType {
  const bits = scaleBits[format];
  const longest = format === "e8m0-half" ? group : Math.max(group, 64);
  let block = group;
  while (block * 2 <= longest && columns % (block * 2) === 0) block *= 2;
  const ggml = format === "e8m0-half" && group === 32 ? "MXFP4" : undefined;
  const name =
    block === 64 && group === 16 && format === "ue4m3-half"
      ? "NVFP4"
      : (ggml ?? `fp4 g${group} b${block} ${format}`);
  const known = types.get(name);
  if (known) return known;
  const count = block / group;
  const half = group / 2;
  const head = count * bits;
  const codeDims: [number, number][] = [
    [half, 8],
    [2, 4],
    [count, group * 4],
  ];
  const type: QuantType = {
    name,
    block,
    bytes: (head + block * 4) / 8,
    code: { per: 1, pieces: [{ at: head, bits: 4, dims: count > 1 ? codeDims : codeDims.slice(0, 2) }] },
    values: { kind: "book", dimension: 1, table: levels },
    scale: {
      super: {
        field: { per: group, pieces: [{ at: 0, bits, dims: count > 1 ? [[count, bits]] : [] }] },
        format: format satisfies ScaleFormat,
      },
      ...(format === "f32" && { multiplier: 0.5 }),
    },
  };
  if (types.size >= maxTypes) types.delete(types.keys().next().value ?? "");
  types.set(name, type);
  return type;
}

export interface Fp4Scheme {
  /** Full names. */
  readonly codes: string;
  readonly scales: string;
  readonly bias?: string;
  readonly group: number;
  /** Scales are e4m3 and multiplied by a number for the whole weight, or divided by it. Absent: scales are powers of two. */
  readonly global?: { readonly part: string; readonly divides: boolean };
  /** Shape [experts, out, in/32, 16] instead of [out, in/2]. */
  readonly stacked?: boolean;
}

/**
 * 4-bit floats in groups. Where the global scale divides, each group's quotient is kept as f32: w = code · f32(scale / global) cannot
 * be had from the 8-bit scale and one factor to the last bit.
 */
export function openFp4(site: ModuleTensors, scheme: Fp4Scheme): OpenModule {
  const { group, global, stacked } = scheme;
  if (group < 4 || group > 256 || group % 4 !== 0) {
    throw fail("unsupported-group", `${site.where}: groups of ${group} are not possible`, "type-unsupported");
  }
  const codes = needNamed(
    site,
    scheme.codes,
    ["U8"],
    stacked ? [undefined, undefined, undefined, group / 2] : [undefined, undefined],
  );
  const sizes = stacked ? codes.shape.slice(1) : codes.shape;
  const experts = stacked ? codes.shape[0]! : undefined;
  const out = sizes[0]!;
  const columns = stacked ? sizes[1]! * group : sizes[1]! * 2;
  const rows = out * (experts ?? 1);
  if (columns % group !== 0) {
    throw fail(
      "shape-mismatch",
      `${site.where}: ${columns} columns are no whole number of groups of ${group}`,
    );
  }
  const groups = columns / group;
  const scaleShape = experts === undefined ? [out, groups] : [experts, out, groups];
  const scales = needNamed(site, scheme.scales, global ? ["F8_E4M3"] : ["U8", "F8_E8M0"], scaleShape);
  const factor = global && site.need(global.part, ["F32"]);
  if (factor && !factor.shape.every((size) => size === 1)) {
    throw fail(
      "shape-mismatch",
      `${site.where}: ${factor.name} is [${factor.shape.join(", ")}], expected a single number`,
    );
  }
  const format = !global ? "e8m0-half" : global.divides ? "f32" : "ue4m3-half";
  const outline = { type: fp4Type(group, columns, format), from: 0, to: columns };
  const module = { out, in: columns, ...(experts !== undefined && { experts }), segments: [outline] };
  return site.open(
    module,
    async (signal) => {
      const [nibbles, bytes, globalBytes] = await Promise.all([
        site.checkpoint.read(codes, signal),
        site.checkpoint.read(scales, signal),
        factor && site.checkpoint.read(factor, signal),
      ]);
      const by = globalBytes && globalScale(site, globalBytes);
      const checked = by === undefined ? finitePowers(site, bytes) : positiveScales(site, bytes);
      const table = by !== undefined && global?.divides ? quotients(by) : undefined;
      if (table && !Number.isFinite(table[126])) {
        throw fail("non-finite-scale", `${site.where}: scales divided by ${by} are not finite`);
      }
      const blocks = layBlocks(outline.type, nibbles, checked, group, table);
      return {
        segments: [{ ...outline, blocks }],
        ...(by !== undefined && !table && { rowScale: new Float32Array(rows).fill(by) }),
        ...(by !== undefined && table && { provenance: { "compressed-tensors": { globalScale: by } } }),
      };
    },
    { unread, ...(scheme.bias !== undefined && { bias: scheme.bias }) },
  );
}

/** Files have two neighbours in a byte; blocks have a group's halves. */
function layBlocks(
  { block, bytes }: QuantType,
  nibbles: Uint8Array,
  scales: Uint8Array,
  group: number,
  table: Float32Array | undefined,
): Uint8Array {
  const count = block / group;
  const half = group / 2;
  const quarter = group / 4;
  const width = table ? 4 : 1;
  const blocks = new Uint8Array((scales.length / count) * bytes);
  for (let g = 0, from = 0; g < scales.length; g++, from += half) {
    const start = Math.floor(g / count) * bytes;
    const inBlock = g % count;
    const at = start + inBlock * width;
    if (table)
      for (let i = 0, value = floatToBits(table[scales[g]!]!); i < 4; i++, value >>>= 8)
        blocks[at + i] = value;
    else blocks[at] = scales[g]!;
    swapNibbles(nibbles, from, blocks, start + count * width + inBlock * half, quarter, "to-halves");
  }
  return blocks;
}

/** Between pairs of neighbours and pairs of halves; 4 · `quarter` codes. */
export function swapNibbles(
  from: Uint8Array,
  at: number,
  to: Uint8Array,
  toAt: number,
  quarter: number,
  direction: "to-halves" | "to-neighbours",
): void {
  for (let i = 0; i < quarter; i++) {
    if (direction === "to-halves") {
      const a = from[at + i]!;
      const b = from[at + quarter + i]!;
      to[toAt + 2 * i] = (a & 15) | (b << 4);
      to[toAt + 2 * i + 1] = (a >> 4) | (b & 0xf0);
    } else {
      const a = from[at + 2 * i]!;
      const b = from[at + 2 * i + 1]!;
      to[toAt + i] = (a & 15) | (b << 4);
      to[toAt + quarter + i] = (a >> 4) | (b & 0xf0);
    }
  }
}

function needNamed(
  site: ModuleTensors,
  name: string,
  dtypes: Parameters<ModuleTensors["named"]>[1],
  shape: ShapePattern,
): SafetensorsTensor {
  const tensor = site.named(name, dtypes, shape);
  if (tensor) return tensor;
  throw fail("missing-tensor", `${site.where} has no tensor ${name}`);
}

function globalScale(site: ModuleTensors, bytes: Uint8Array): number {
  const value = bitsToFloat(new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true));
  if (Number.isFinite(value) && value > 0) return value;
  throw fail("non-finite-scale", `${site.where}: its global scale is ${value}`);
}

/** What each 8-bit scale comes to; a division rounded to f64 and then to f32 is as one to f32. */
export function quotients(by: number): Float32Array {
  return Float32Array.from({ length: 127 }, (_, code) => e4m3ToFloat(code) / by);
}

function positiveScales(site: ModuleTensors, bytes: Uint8Array): Uint8Array {
  const bad = bytes.findIndex((byte) => byte >= 127);
  if (bad < 0) return bytes;
  throw fail("non-finite-scale", `${site.where}: scale ${bad} is ${e4m3ToFloat(bytes[bad]!)}`);
}
