import {
  floatToBits,
  floatToHalf,
  halfToFloat,
  type LinearShape,
  type LinearWeight,
  type PackedTensor,
  type PlainJson,
  type QuantType,
  roundHalfEven,
  roundToBf16,
  rowsOf,
  type SafetensorsDtype,
} from "@lowbit/core";
import { fp4Type, quotients, swapNibbles } from "./fp4.ts";
import { float8Types, scaledFloat8 } from "./fp8.ts";
import { type Scheme, tokens, type WrittenForm } from "./write-config.ts";

export const variants = [
  "pack-quantized",
  "int-quantized",
  "float-quantized",
  "mxfp4-pack-quantized",
] as const;
export type Variant = (typeof variants)[number];

const float8 = { num_bits: 8, type: "float" };
const float4 = { num_bits: 4, type: "float" };
const schemes = {
  channel: {
    format: "float-quantized",
    weights: { ...float8, strategy: "channel" },
    activations: { ...tokens, type: "float" },
  },
  block: {
    format: "float-quantized",
    weights: { ...float8, strategy: "block", block_structure: [128, 128] },
    activations: { ...tokens, type: "float", strategy: "group", group_size: 128 },
  },
  mxfp8: {
    format: "mxfp8-quantized",
    weights: { ...float8, strategy: "group", group_size: 32 },
    activations: null,
  },
  mxfp4: {
    format: "mxfp4-pack-quantized",
    weights: { ...float4, strategy: "group", group_size: 32 },
    activations: null,
  },
  nvfp4: {
    format: "nvfp4-pack-quantized",
    weights: { ...float4, strategy: "tensor_group", group_size: 16 },
    activations: null,
  },
} satisfies Record<string, Scheme>;

/** Undefined for weights that compressed-tensors has no format for. */
export function floatForm(weight: LinearWeight): WrittenForm | undefined {
  const { segments, permute, rowScale, in: columns } = weight;
  const [segment, second] = segments;
  if (permute || !segment || segment.from !== 0 || segments.at(-1)?.to !== columns) return undefined;
  if (segment.type === float8Types["f8-e4m3"])
    return second || !rowScale ? undefined : channelForm(weight, rowScale);
  if (rowScale) return undefined;
  const block = blockForm(weight);
  if (block || second) return block;
  if (segment.type === fp4Type(32, columns, "e8m0-half")) {
    return { scheme: schemes.mxfp4, pack: (module) => packFp4(module, weight, 32, 1) };
  }
  return nvForm(weight);
}

function channelForm(weight: LinearWeight, rowScale: Float32Array): WrittenForm {
  const { out, in: columns, segments } = weight;
  return {
    scheme: schemes.channel,
    pack: (module) => [
      { name: `${module}.weight`, dtype: "F8_E4M3", shape: [out, columns], data: segments[0]!.blocks },
      { name: `${module}.weight_scale`, shape: [out, 1], ...shortest(rowScale) },
      ...biasTensor(module, weight),
    ],
  };
}

const high = 128;

/** Scales for blocks of 128 rows, or powers of two for each row's groups of 32 columns. */
function blockForm(weight: LinearWeight): WrittenForm | undefined {
  const { out, in: columns, segments } = weight;
  for (const scale of ["f32", "bf16", "f16", "e8m0-half"] as const) {
    const wide = scale === "e8m0-half" ? 32 : high;
    const own = segments.every(({ type, from, to }, i) => {
      const short = i > 0 || to < wide;
      return from % wide === 0 && i < 2 && type === scaledFloat8("f8-e4m3", short ? to - from : wide, scale);
    });
    if (!own) continue;
    const rows = scale === "e8m0-half" ? 1 : high;
    const width = { f32: 4, bf16: 2, f16: 2, "e8m0-half": 1 }[scale];
    const across = Math.ceil(columns / wide);
    const scales = new Uint8Array(Math.ceil(out / rows) * across * width);
    const codes = new Uint8Array(out * columns);
    for (const { type, from, to, blocks } of segments) {
      for (let n = 0, at = 0; n < rowsOf(weight); n++) {
        for (let k = from; k < to; k += type.block, at += type.bytes) {
          const place = (Math.floor(n / rows) * across + Math.floor(k / wide)) * width;
          if (n % rows === 0) scales.set(blocks.subarray(at, at + width), place);
          else for (let i = 0; i < width; i++) if (scales[place + i] !== blocks[at + i]) return undefined;
          if (n < out) codes.set(blocks.subarray(at + width, at + type.bytes), n * columns + k);
        }
      }
    }
    const dtype = ({ f32: "F32", bf16: "BF16", f16: "F16", "e8m0-half": "U8" } as const)[scale];
    return {
      scheme: scale === "e8m0-half" ? schemes.mxfp8 : schemes.block,
      pack: (module) => [
        { name: `${module}.weight`, dtype: "F8_E4M3", shape: [out, columns], data: codes },
        { name: `${module}.weight_scale`, dtype, shape: [Math.ceil(out / rows), across], data: scales },
        ...biasTensor(module, weight),
      ],
    };
  }
  return undefined;
}

/** The quotients must be those of 8-bit scales by the global scale that a reader kept. */
function nvForm(weight: LinearWeight): WrittenForm | undefined {
  const { in: columns, segments, provenance } = weight;
  const { type, blocks } = segments[0]!;
  const by = globalScale(provenance?.["compressed-tensors"]);
  if (by === undefined || type !== fp4Type(16, columns, "f32")) return undefined;
  const codes = new Map([...quotients(by)].map((quotient, code) => [floatToBits(quotient), code]));
  const found: number[] = [];
  for (let at = 0; at < blocks.length; at += type.bytes) {
    const view = new DataView(blocks.buffer, blocks.byteOffset + at, type.bytes);
    for (let g = 0; g < type.block / 16; g++) {
      const code = codes.get(view.getUint32(g * 4, true));
      if (code === undefined) return undefined;
      found.push(code);
    }
  }
  return {
    scheme: schemes.nvfp4,
    pack: (module) => [
      ...packFp4(module, weight, 16, 4, Uint8Array.from(found)),
      { name: `${module}.weight_global_scale`, dtype: "F32", shape: [1], data: bytesOf(Float32Array.of(by)) },
    ],
  };
}

function globalScale(own: PlainJson | undefined): number | undefined {
  const value = typeof own === "object" && own !== null && "globalScale" in own ? own.globalScale : undefined;
  return typeof value === "number" && value > 0 && Math.fround(value) === value ? value : undefined;
}

/** Codes, and scales that are given or lie in front of the codes. */
function packFp4(
  module: string,
  weight: LinearWeight,
  group: number,
  scaleBytes: number,
  given?: Uint8Array,
): PackedTensor[] {
  const { out, in: columns, segments } = weight;
  const { type, blocks } = segments[0]!;
  const count = type.block / group;
  const groups = columns / group;
  const scales = given ?? new Uint8Array(out * groups);
  const packed = new Uint8Array((out * columns) / 2);
  for (let g = 0; g < out * groups; g++) {
    const start = Math.floor(g / count) * type.bytes;
    if (!given) scales[g] = blocks[start + (g % count)]!;
    const at = start + count * scaleBytes + ((g % count) * group) / 2;
    swapNibbles(blocks, at, packed, (g * group) / 2, group / 4, "to-neighbours");
  }
  return [
    { name: `${module}.weight_packed`, dtype: "U8", shape: [out, columns / 2], data: packed },
    { name: `${module}.weight_scale`, dtype: given ? "F8_E4M3" : "U8", shape: [out, groups], data: scales },
    ...biasTensor(module, weight),
  ];
}

/** One bfloat16 scale for each row, max|w| / 448. */
export function quantizeFloat8(
  values: Float32Array,
  { out, in: columns, experts }: LinearShape,
): LinearWeight {
  const rows = out * (experts ?? 1);
  const rowScale = new Float32Array(rows);
  const blocks = new Uint8Array(values.length);
  for (let n = 0, at = 0; n < rows; n++) {
    let max = 0;
    for (let k = 0; k < columns; k++) max = Math.max(max, Math.abs(values[n * columns + k]!));
    const scale = roundToBf16(Math.fround(max / 448)) || 2 ** -7;
    rowScale[n] = scale;
    for (const end = at + columns; at < end; at++) blocks[at] = toFloat8(Math.fround(values[at]! / scale));
  }
  const segments = [{ type: float8Types["f8-e4m3"], from: 0, to: columns, blocks }];
  return { out, in: columns, ...(experts !== undefined && { experts }), rowScale, segments };
}

/**
 * Groups of 32 with a power of two: that of max|w|, which from 1.75 up counts as the next, times 2^-2, since the largest code is 6.
 */
export function quantizeMxfp4(
  values: Float32Array,
  { out, in: columns, experts }: LinearShape,
): LinearWeight {
  const type: QuantType = fp4Type(32, columns, "e8m0-half");
  const blocks = new Uint8Array((values.length / 32) * type.bytes);
  const pairs = new Uint8Array(16);
  for (let from = 0, at = 0; from < values.length; from += 32, at += type.bytes) {
    let max = 0;
    for (let k = from; k < from + 32; k++) max = Math.max(max, Math.abs(values[k]!));
    const exponent = ((floatToBits(roundToBf16(max)) + 0x20_0000) >>> 23) - 2;
    const biased = Math.max(0, Math.min(254, exponent));
    const scale = 2 ** (biased - 127);
    for (let i = 0; i < 16; i++) {
      const low = toFloat4(values[from + 2 * i]! / scale);
      pairs[i] = low | (toFloat4(values[from + 2 * i + 1]! / scale) << 4);
    }
    blocks[at] = biased;
    swapNibbles(pairs, 0, blocks, at + 1, 8, "to-halves");
  }
  const segments = [{ type, from: 0, to: columns, blocks }];
  return { out, in: columns, ...(experts !== undefined && { experts }), segments };
}

/** Nearest E4M3, ties to even, at most 448. */
export function toFloat8(value: number): number {
  return toSmallFloat(value, 3, -6, 448) | (value < 0 ? 0x80 : 0);
}

/** Nearest E2M1, ties to even, at most 6. */
export function toFloat4(value: number): number {
  return toSmallFloat(value, 1, 0, 6) | (value < 0 ? 8 : 0);
}

/** The code without its sign; below 2^`least` numbers are evenly spaced. */
function toSmallFloat(value: number, mantissaBits: number, least: number, most: number): number {
  const magnitude = Math.min(Math.abs(value), most);
  const exponent = Math.max(least, (floatToBits(magnitude) >>> 23) - 127);
  // A mantissa that rounds up to the next power of two carries into the exponent.
  return (exponent - least) * 2 ** mantissaBits + roundHalfEven(magnitude * 2 ** (mantissaBits - exponent));
}

export function biasTensor(module: string, { bias }: LinearWeight): PackedTensor[] {
  return bias ? [{ name: `${module}.bias`, shape: [bias.length], ...shortest(bias) }] : [];
}

/** In the shortest float that holds every value. */
function shortest(values: Float32Array): { dtype: SafetensorsDtype; data: Uint8Array } {
  if (values.every((value) => roundToBf16(value) === value)) {
    return { dtype: "BF16", data: bytesOf(Uint16Array.from(values, (value) => floatToBits(value) >>> 16)) };
  }
  if (values.every((value) => halfToFloat(floatToHalf(value)) === value)) {
    return { dtype: "F16", data: bytesOf(Uint16Array.from(values, floatToHalf)) };
  }
  return { dtype: "F32", data: bytesOf(values) };
}

/** Little-endian, as all machines are that run this. */
export function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
}
