import {
  type DenseFormat,
  denseType,
  e4m3ToFloat,
  e5m2ToFloat,
  type QuantType,
  type SafetensorsDtype,
  type SafetensorsTensor,
  type ScaleFormat,
  type WeightSegment,
} from "@lowbit/core";
import { floatDtypes, floatFormats, type ModuleTensors, type OpenModule } from "@lowbit/packing";
import { fail, finiteFloats, unread } from "./modules.ts";

export type Float8 = "f8-e4m3" | "f8-e5m2";

/** Weights without a scale of their own; rows are scaled. */
export const float8Types: Readonly<Record<Float8, QuantType>> = {
  "f8-e4m3": denseType("F8_E4M3", "f8-e4m3" satisfies DenseFormat),
  "f8-e5m2": denseType("F8_E5M2", "f8-e5m2" satisfies DenseFormat),
};

const formats: Partial<Record<SafetensorsDtype, Float8>> = { F8_E4M3: "f8-e4m3", F8_E5M2: "f8-e5m2" };
const decoders = { "f8-e4m3": e4m3ToFloat, "f8-e5m2": e5m2ToFloat } as const;
const scaleBytes = { f32: 4, f16: 2, bf16: 2, "e8m0-half": 1, "ue4m3-half": 1 } as const;
const types = new Map<string, QuantType>();
const maxTypes = 64;

/** Blocks [scale][codes]: w = scale · the number that the code is. Codes that are no number stand for 0: readers refuse them. */
export function scaledFloat8(format: Float8, block: number, scale: ScaleFormat): QuantType {
  const name = `${float8Types[format].name} g${block} ${scale === "e8m0-half" ? "e8m0" : scale}`;
  const known = types.get(name);
  if (known) return known;
  const head = scaleBytes[scale];
  const type: QuantType = {
    name,
    block,
    bytes: head + block,
    code: { per: 1, pieces: [{ at: head * 8, bits: 8, dims: [[block, 8]] }] },
    values: {
      kind: "book",
      dimension: 1,
      table: Array.from({ length: 256 }, (_, code) => {
        const value = decoders[format](code);
        return Number.isFinite(value) ? value : 0;
      }),
    },
    scale: {
      super: { field: { per: block, pieces: [{ at: 0, bits: head * 8, dims: [] }] }, format: scale },
      ...(scale === "e8m0-half" && { multiplier: 2 }),
    },
  };
  if (types.size >= maxTypes) types.delete(types.keys().next().value ?? "");
  types.set(name, type);
  return type;
}

export interface Float8Scheme {
  /** Name of the scale: "weight_scale". */
  readonly scale: string;
  /** "any": whichever of tensor and channel the scale's shape is. */
  readonly strategy: "tensor" | "channel" | "any" | readonly [rows: number, columns: number];
  /** The format that the configuration declares. */
  readonly format?: Float8;
}

/**
 * 8-bit floats with a scale for the tensor, for each row, or for each block of rows and columns. The first two become plain numbers
 * with row scales; of blocks each row repeats the scale.
 */
export function openFloat8(
  site: ModuleTensors,
  { scale: part, strategy, format: declared }: Float8Scheme,
): OpenModule {
  const weight = site.need("weight", ["F8_E4M3", "F8_E5M2"], [undefined, undefined]);
  const format = formats[weight.dtype]!;
  if (declared && declared !== format) {
    throw fail("invalid-config", `${site.where} is ${weight.dtype}, but ${declared} is declared`);
  }
  const [rows, columns] = weight.shape as [number, number];
  if (typeof strategy !== "string") return openBlocks(site, weight, part, strategy);
  const scale = site.need(part, floatDtypes);
  const { shape } = scale;
  const one = shape.every((size) => size === 1);
  const each = shape[0] === rows && shape.slice(1).every((size) => size === 1);
  if (!(strategy === "tensor" ? one : each || (one && strategy === "any"))) {
    const expected = strategy === "channel" ? `[${rows}, 1]` : "a single number";
    throw fail("shape-mismatch", `${site.where}: ${part} is [${shape.join(", ")}], expected ${expected}`);
  }
  const outline = { type: float8Types[format], from: 0, to: columns };
  return site.open(
    { out: rows, in: columns, segments: [outline] },
    async (signal) => {
      const [codes, values] = await Promise.all([
        site.checkpoint.read(weight, signal),
        finiteFloats(site, scale, signal),
      ]);
      checkFinite(site, codes, format);
      const rowScale = values.length === rows ? values : new Float32Array(rows).fill(values[0]!);
      return { segments: [{ ...outline, blocks: codes }], rowScale };
    },
    { unread },
  );
}

function openBlocks(
  site: ModuleTensors,
  weight: SafetensorsTensor,
  part: string,
  [high, wide]: readonly [number, number],
): OpenModule {
  const format = formats[weight.dtype]!;
  const [rows, columns] = weight.shape as [number, number];
  const across = Math.ceil(columns / wide);
  const shape = [Math.ceil(rows / high), across];
  const powers = ["U8", "F8_E8M0"] as const;
  const scale = site.need(part, [...floatDtypes, ...powers], shape);
  const isPower = powers.some((dtype) => dtype === scale.dtype);
  const scaleFormat = isPower ? "e8m0-half" : floatFormats[scale.dtype as keyof typeof floatFormats];
  const whole = Math.floor(columns / wide) * wide;
  const spans = [
    { from: 0, to: whole, width: wide },
    { from: whole, to: columns, width: columns - whole },
  ].filter(({ from, to }) => to > from);
  const segments = spans.map(({ from, to, width }) => ({
    type: scaledFloat8(format, blockOf(width), scaleFormat),
    from,
    to,
  }));
  return site.open(
    { out: rows, in: columns, segments },
    async (signal) => {
      const [codes, scales] = await Promise.all([
        site.checkpoint.read(weight, signal),
        isPower
          ? site.checkpoint.read(scale, signal).then((bytes) => finitePowers(site, bytes))
          : site.scaleBits(scale, signal),
      ]);
      checkFinite(site, codes, format);
      const head = scaleBytes[scaleFormat];
      return {
        segments: segments.map(({ type, from, to }): WeightSegment => {
          const blocks = new Uint8Array(rows * ((to - from) / type.block) * type.bytes);
          for (let n = 0, at = 0; n < rows; n++) {
            const first = Math.floor(n / high) * across;
            for (let k = from; k < to; k += type.block, at += type.bytes) {
              const bits = scales[first + Math.floor(k / wide)]!;
              for (let i = 0, value = bits; i < head; i++, value >>>= 8) blocks[at + i] = value;
              const source = n * columns + k;
              blocks.set(codes.subarray(source, source + type.block), at + head);
            }
          }
          return { type, from, to, blocks };
        }),
      };
    },
    { unread },
  );
}

/** Exponents of two, biased by 127; 255 is no number. */
export function finitePowers(site: ModuleTensors, bytes: Uint8Array): Uint8Array {
  const bad = bytes.indexOf(255);
  if (bad < 0) return bytes;
  throw fail("non-finite-scale", `${site.where}: scale ${bad} is not a number`);
}

/** The longest block, up to 1024 columns, that a scale's columns are a whole number of. */
function blockOf(width: number): number {
  for (let parts = Math.ceil(width / 1024); parts < width; parts++)
    if (width % parts === 0) return width / parts;
  return 1;
}

/** Codes that stand for no number would make every product NaN. */
function checkFinite(site: ModuleTensors, codes: Uint8Array, format: Float8): void {
  const limit = format === "f8-e4m3" ? 0x7f : 0x7c;
  for (let i = 0; i < codes.length; i++) {
    if ((codes[i]! & 0x7f) >= limit) {
      throw fail("non-finite-value", `${site.where}: weight ${i} is not a finite number`);
    }
  }
}
