import {
  floatToBits,
  floatToHalf,
  type LinearShape,
  type LinearWeight,
  LowbitError,
  type PackedDescription,
  type PackedTensor,
  type PackingOptions,
  type PackingWriter,
  type PlainJson,
  roundHalfEven,
  roundToBf16,
  rowsOf,
} from "@lowbit/core";
import { buildGrid, type GridShape, gridShapeOf, integerGrid, readCodes, wordsOf } from "@lowbit/packing";
import { packingOfBits, packings, packRow, type View, viewOf } from "./layout.ts";

/** Modules that stay plain: tables of embeddings, heads, and the small matrices that choose experts. */
const plainRoles = /^(embed|head)|router$/;
const dtypes = { f16: "F16", bf16: "BF16", f32: "F32" } as const;
type FloatFormat = keyof typeof dtypes;

/** Options: `bits` 8, 6, 5, 4, 3, 2 or 1 (@default 4), `groupSize` (@default 64; −1 for whole rows). Groups lie in rows (axis 1). */
export function hqqWriter(options: PackingOptions): PackingWriter {
  const { bits = 4, groupSize = 64, symmetric = false, variant } = options;
  if (!Number.isInteger(bits) || !Object.hasOwn(packingOfBits, String(bits)))
    throw refuse(`${bits} bits are not possible`);
  if (groupSize !== -1 && !(Number.isInteger(groupSize) && groupSize >= 8 && groupSize <= 65_536))
    throw refuse(`groups of ${groupSize} are not possible; 8 columns or more are, and -1 for whole rows`);
  if (symmetric) throw refuse("its groups have zero points of their own");
  if (variant !== undefined) throw refuse(`there is no variant ${JSON.stringify(variant)}, or any other`);
  return {
    hold: (weight) => hold(weight, options),
    quantize: (values, shape) =>
      plainRoles.test(shape.role) ? undefined : quantize(values, shape, bits, groupSize),
    pack,
    describe,
    configuration: (modules, dense) => ({ quantization: configuration(modules, dense) }),
  };
}

/** A weight of one segment of a grid with float zero points, as its reader makes them, with the view to pack it by. */
function ownShape(
  weight: LinearWeight,
): { shape: GridShape; zero: FloatFormat; scale: FloatFormat; view: View } | undefined {
  const { segments, in: columns, permute, rowScale } = weight;
  const [segment] = segments;
  const shape = segment && gridShapeOf(segment.type);
  if (!shape || segments.length !== 1 || segment.to !== columns || permute || rowScale) return undefined;
  const { bits, group, scale, zero, min, round } = shape;
  if (typeof zero === "number" || zero === "integer" || scale === "none" || min || round) return undefined;
  const view = viewFor(weight, bits, group);
  return view && { shape, zero, scale, view };
}

function viewFor(weight: LinearShape | LinearWeight, bits: number, group: number): View | undefined {
  const packing = packings[packingOfBits[String(bits)] ?? ""];
  return packing && weight.in % group === 0 ? viewOf(weight, 1, group, bits, packing) : undefined;
}

function hold(weight: LinearWeight, { bits, groupSize }: PackingOptions): LinearWeight | undefined {
  const own = ownShape(weight);
  const grid = own ? undefined : integerGrid(weight);
  const { bits: ownBits, group } = own?.shape ?? grid ?? {};
  if (ownBits === undefined || group === undefined) return undefined;
  const wanted = groupSize === -1 ? weight.in : groupSize;
  if (ownBits !== (bits ?? ownBits) || group !== (wanted ?? group)) return undefined;
  if (own || !grid) return weight;
  const { scale } = grid;
  if (scale === "none" || grid.round || weight.permute || weight.rowScale || !viewFor(weight, ownBits, group))
    return undefined;
  // Integers up to 255 are exact in every float.
  const rows = rowsOf(weight);
  const builder = buildGrid(rows, weight.in, { bits: ownBits, group, scale, zero: scale });
  const codes = new Uint8Array(weight.in);
  const scales = new Uint32Array(grid.groups);
  const zeros = new Uint8Array(grid.groups);
  for (let n = 0; n < rows; n++) {
    grid.row(n, codes, scales, zeros);
    builder.row(
      n,
      codes,
      scales,
      Array.from(zeros, (zero) => bitsOf(scale, zero)),
    );
  }
  const { provenance: _, ...rest } = weight;
  return { ...rest, segments: builder.segments };
}

/**
 * To the nearest, as hqq does before it optimizes: scale = (max − min) / (2^b − 1), zero = −min / scale. Both are kept as halves, or
 * as f32 where they do not fit.
 */
function quantize(
  values: Float32Array,
  shape: LinearShape,
  bits: number,
  groupSize: number,
): LinearWeight | undefined {
  const { out, in: columns, experts } = shape;
  const group = groupSize === -1 ? columns : groupSize;
  if (!viewFor(shape, bits, group)) return undefined;
  const most = 2 ** bits - 1;
  const count = values.length / group;
  const inverses = new Float32Array(count);
  const zeros = new Float32Array(count);
  for (let g = 0; g < count; g++) {
    let min = Number.POSITIVE_INFINITY;
    let max = Number.NEGATIVE_INFINITY;
    for (let k = g * group; k < (g + 1) * group; k++) {
      min = Math.min(min, values[k]!);
      max = Math.max(max, values[k]!);
    }
    const range = Math.fround(max - min);
    if (!Number.isFinite(range)) throw refuse(`${shape.role} has values that are not finite`);
    inverses[g] = range <= 1e-4 ? 1 : Math.min(2e4, Math.fround(most / range));
    zeros[g] = -min * inverses[g]!;
  }
  const halves =
    [...zeros].every((zero) => Math.abs(zero) < 65_504) && [...inverses].every((inverse) => inverse > 1e-4);
  const format = halves ? "f16" : "f32";
  const rows = out * (experts ?? 1);
  const builder = buildGrid(rows, columns, { bits, group, scale: format, zero: format });
  const codes = new Uint8Array(columns);
  for (let n = 0; n < rows; n++) {
    const first = n * builder.groups;
    for (let k = 0; k < columns; k++) {
      const g = first + Math.floor(k / group);
      const code = roundHalfEven(
        Math.fround(Math.fround(values[n * columns + k]! * inverses[g]!) + zeros[g]!),
      );
      codes[k] = Math.max(0, Math.min(most, code));
    }
    const slice = (array: Float32Array) => array.subarray(first, first + builder.groups);
    builder.row(
      n,
      codes,
      Array.from(slice(inverses), (inverse) => bitsOf(format, 1 / inverse)),
      Array.from(slice(zeros), (zero) => bitsOf(format, zero)),
    );
  }
  return { out, in: columns, ...(experts !== undefined && { experts }), segments: builder.segments };
}

function bitsOf(format: FloatFormat, value: number): number {
  if (format === "f16") return floatToHalf(value);
  return format === "f32" ? floatToBits(value) : floatToBits(roundToBf16(value)) >>> 16;
}

/** Tensors as hqq's state_dict has them, settings included. */
function pack(module: string, weight: LinearWeight): readonly PackedTensor[] {
  const own = (weight.experts ?? 1) === 1 ? ownShape(weight) : undefined;
  if (!own) throw refuse(`${module} is not a weight that it made or can hold`);
  const { shape, view, scale, zero } = own;
  const { out, in: columns, segments, bias } = weight;
  const { type, blocks } = segments[0]!;
  const { packing, packedRows, groups } = view;
  const size = packedRows * view.columns;
  const words = packing.dtype === "I32" ? new Uint32Array(size) : new Uint8Array(size);
  const [scaleBytes, zeroBytes] = [scale === "f32" ? 4 : 2, zero === "f32" ? 4 : 2];
  const scales = new Uint8Array(groups * scaleBytes);
  const zeros = new Uint8Array(groups * zeroBytes);
  const codes = new Uint8Array(shape.group);
  const stream = new Uint32Array(wordsOf(type.block, shape.bits));
  const bytes = new Uint8Array(stream.buffer);
  const parts = shape.group / type.block;
  for (let g = 0; g < groups; g++) {
    const at = g * parts * type.bytes;
    scales.set(blocks.subarray(at, at + scaleBytes), g * scaleBytes);
    zeros.set(blocks.subarray(at + scaleBytes, at + scaleBytes + zeroBytes), g * zeroBytes);
    for (let p = 0; p < parts; p++) {
      const block = blocks.subarray(at + p * type.bytes, at + (p + 1) * type.bytes);
      bytes.set(block.subarray(scaleBytes + zeroBytes));
      readCodes(stream, { bits: shape.bits }, codes.subarray(p * type.block, (p + 1) * type.block));
    }
    packRow(view, words, g, codes);
  }
  const tensor = (
    key: string,
    dtype: PackedTensor["dtype"],
    shape: readonly number[],
    data: ArrayBufferView,
  ) => ({
    name: `${module}.${key}`,
    dtype,
    shape,
    data: new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength),
  });
  const integer = (key: string, value: number) => tensor(key, "I32", [], Int32Array.of(value));
  const flag = (key: string, value: boolean) => tensor(key, "U8", [], Uint8Array.of(value ? 1 : 0));
  const text = (key: string, value: string) => {
    const letters = new TextEncoder().encode(value);
    return tensor(key, "U8", [letters.length], letters);
  };
  const compute = { f16: "torch.float16", bf16: "torch.bfloat16", f32: "torch.float32" }[scale];
  return [
    tensor("W_q", packing.dtype, [packedRows, view.columns], words),
    tensor("scale", dtypes[scale], [groups, 1], scales),
    tensor("zero", dtypes[zero], [groups, 1], zeros),
    ...(bias ? [tensor("bias", "F32", [out], bias)] : []),
    integer("nbits", shape.bits),
    integer("group_size", shape.group),
    integer("axis", 1),
    tensor("shape", "I64", [2], BigInt64Array.of(BigInt(out), BigInt(columns))),
    text("packing", packingOfBits[String(shape.bits)]!),
    text("unpack_view_dtype", packing.dtype === "I32" ? "torch.int32" : "torch.uint8"),
    text("compute_dtype", compute),
    flag("view_as_float", false),
    flag("quant_scale", false),
    flag("quant_zero", false),
    flag("offload_meta", false),
    flag("channel_wise", true),
    flag("optimize", false),
    flag("round_zero", false),
    flag("encoded_state_dict", true),
    flag("stores_quant_config", true),
  ];
}

function describe(weight: LinearWeight): { readonly [key: string]: PlainJson } {
  const { bits, group } = ownShape(weight)?.shape ?? {};
  return bits === undefined || group === undefined ? {} : { nbits: bits, group_size: group };
}

/** Parameters of all modules, or by module where they differ. */
function configuration(
  modules: ReadonlyMap<string, PackedDescription>,
  dense: readonly string[],
): { readonly [key: string]: PlainJson } {
  const common = { axis: 1, channel_wise: true, optimize: false, round_zero: false, view_as_float: false };
  const byModule = [...modules].map(([name, { nbits = null, group_size = null }]) => {
    const weight_quant_params = { nbits, group_size, ...common };
    return [
      name,
      { weight_quant_params, scale_quant_params: null, zero_quant_params: null, offload_meta: false },
    ] as const;
  });
  const alike = new Set(byModule.map(([, parameters]) => JSON.stringify(parameters))).size <= 1;
  const quant_config = alike ? (byModule[0]?.[1] ?? {}) : Object.fromEntries(byModule);
  return {
    quant_method: "hqq",
    quant_config,
    skip_modules: dense.filter((name) => !/norm|embed/.test(name)),
  };
}

function refuse(what: string): LowbitError {
  return new LowbitError("bad-argument", `hqq: ${what}.`, { plugin: "hqq" });
}
