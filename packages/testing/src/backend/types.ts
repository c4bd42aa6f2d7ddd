import { type DenseFormat, denseType, floatToHalf, type QuantType } from "@lowbit/core";
import { type GridShape, gridType } from "@lowbit/packing";
import { random } from "../random.ts";

/** A quantization type of this suite and a way to make blocks whose scales are sound. */
export interface SampleType {
  readonly type: QuantType;
  /** Puts scales into a block of random bits. */
  readonly finish: (block: DataView, uniform: () => number) => void;
  /** How far a decoded weight may be off, relative to the largest: kernels may leave out a last rounding. @default 0 */
  readonly inexact?: number;
}

/** An f16 scale of 0.01 to 0.1 at a byte. */
const half =
  (at: number): SampleType["finish"] =>
  (block, uniform) =>
    block.setUint16(at, floatToHalf(0.01 + 0.09 * uniform()), true);

const f16Per = (block: number, at: number): QuantType["scale"] => ({
  super: { field: { per: block, pieces: [{ at: at * 8, bits: 16, dims: [] }] }, format: "f16" },
});

/** 4-bit codes, low nibbles first, minus 8; one f16 scale. */
const ints4: SampleType = {
  type: {
    name: "suite ints4",
    block: 32,
    bytes: 18,
    code: {
      per: 1,
      pieces: [
        {
          at: 16,
          bits: 4,
          dims: [
            [16, 8],
            [2, 4],
          ],
        },
      ],
    },
    values: { kind: "affine", zero: 8 },
    scale: f16Per(32, 0),
  },
  finish: half(0),
};

/** Signed bytes under an f32 scale. */
const ints8: SampleType = {
  type: {
    name: "suite ints8",
    block: 32,
    bytes: 36,
    code: { per: 1, pieces: [{ at: 32, bits: 8, dims: [[32, 8]] }], signed: true },
    values: { kind: "affine", zero: 0 },
    scale: { super: { field: { per: 32, pieces: [{ at: 0, bits: 32, dims: [] }] }, format: "f32" } },
  },
  finish: (block, uniform) => block.setFloat32(0, 0.001 + 0.01 * uniform(), true),
};

/** 3-bit codes in a 2-bit and a 1-bit plane. */
const ints3: SampleType = {
  type: {
    name: "suite ints3 in planes",
    block: 32,
    bytes: 14,
    code: {
      per: 1,
      pieces: [
        { at: 16, bits: 2, dims: [[32, 2]] },
        { at: 80, bits: 1, dims: [[32, 1]] },
      ],
    },
    values: { kind: "affine", zero: 4 },
    scale: f16Per(32, 0),
  },
  finish: half(0),
};

/** Two levels of scales and of mins: 4-bit codes, 8-bit sub-scales per 32, f16 over 256. */
const ints4Min: SampleType = {
  type: {
    name: "suite ints4 with mins in two levels",
    block: 256,
    bytes: 148,
    code: { per: 1, pieces: [{ at: 160, bits: 4, dims: [[256, 4]] }] },
    values: { kind: "affine", zero: 0 },
    scale: { ...f16Per(256, 0), sub: { field: { per: 32, pieces: [{ at: 32, bits: 8, dims: [[8, 8]] }] } } },
    min: { ...f16Per(256, 2), sub: { field: { per: 32, pieces: [{ at: 96, bits: 8, dims: [[8, 8]] }] } } },
  },
  finish: (block, uniform) => {
    block.setUint16(0, floatToHalf(0.0001 + 0.001 * uniform()), true);
    block.setUint16(2, floatToHalf(0.0005 + 0.005 * uniform()), true);
  },
};

/** 2-bit codes, 6-bit scales less 32 per 16 weights, f16 over 256. */
const ints2Offset: SampleType = {
  type: {
    name: "suite ints2 with signed sub-scales per 16",
    block: 256,
    bytes: 78,
    code: { per: 1, pieces: [{ at: 112, bits: 2, dims: [[256, 2]] }] },
    values: { kind: "affine", zero: 2 },
    scale: {
      ...f16Per(256, 0),
      sub: { field: { per: 16, pieces: [{ at: 16, bits: 6, dims: [[16, 6]] }] }, offset: -32 },
    },
  },
  finish: half(0),
};

/** Bytes as they are, without any scale. */
const plainInts: SampleType = {
  type: {
    name: "suite ints8 without scale",
    block: 32,
    bytes: 32,
    code: { per: 1, pieces: [{ at: 0, bits: 8, dims: [[32, 8]] }], signed: true },
    values: { kind: "affine", zero: 0 },
  },
  finish: () => {},
};

/** Sixteen levels under a power of two. */
const book4: SampleType = {
  type: {
    name: "suite book of 16 levels",
    block: 32,
    bytes: 17,
    code: { per: 1, pieces: [{ at: 8, bits: 4, dims: [[32, 4]] }] },
    values: {
      kind: "book",
      dimension: 1,
      table: [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12],
    },
    scale: {
      super: { field: { per: 32, pieces: [{ at: 0, bits: 8, dims: [] }] }, format: "e8m0-half" },
    },
  },
  finish: (block, uniform) => block.setUint8(0, 122 + Math.floor(4 * uniform())),
};

const entries = (count: number, levels: readonly number[], seed: number): number[] => {
  const uniform = random(seed);
  return Array.from({ length: count }, () => levels[Math.floor(uniform() * levels.length)] ?? 0);
};

/** 256 entries of four values, signs apart. */
const bookSigns: SampleType = {
  type: {
    name: "suite book of four dimensions with signs",
    block: 32,
    bytes: 14,
    code: { per: 4, pieces: [{ at: 16, bits: 8, dims: [[8, 8]] }] },
    values: { kind: "book", dimension: 4, table: entries(1024, [4, 12, 20, 28], 11) },
    sign: { field: { per: 8, pieces: [{ at: 80, bits: 8, dims: [[4, 8]] }] } },
    scale: { ...f16Per(32, 0), multiplier: 0.125 },
  },
  finish: half(0),
};

/** Signs of seven bits with parity. */
const bookParity: SampleType = {
  type: {
    name: "suite book of eight dimensions with sign parity",
    block: 32,
    bytes: 10,
    code: { per: 8, pieces: [{ at: 16, bits: 8, dims: [[4, 8]] }] },
    values: { kind: "book", dimension: 8, table: entries(2048, [8, 25, 43], 12) },
    sign: { field: { per: 8, pieces: [{ at: 48, bits: 7, dims: [[4, 7]] }] }, parity: true },
    scale: { ...f16Per(32, 0), multiplier: 0.125 },
  },
  finish: half(0),
};

/** Ternary entries, shifted by ±1/8. */
const bookDelta: SampleType = {
  type: {
    name: "suite book with deltas",
    block: 32,
    bytes: 7,
    code: { per: 8, pieces: [{ at: 16, bits: 8, dims: [[4, 8]] }] },
    values: { kind: "book", dimension: 8, table: entries(2048, [-1, 0, 1], 13) },
    delta: { field: { per: 32, pieces: [{ at: 48, bits: 1, dims: [] }] }, values: [0.125, -0.125] },
    scale: f16Per(32, 0),
  },
  finish: half(0),
};

/** Five base-3 digits in a byte. */
const base3: SampleType = {
  type: {
    name: "suite base-3 codes by a function",
    block: 32,
    bytes: 9,
    code: {
      per: 1,
      bits: 2,
      unpack(block, codes) {
        for (let i = 0; i < 32; i++)
          codes[i] = Math.floor((block[2 + Math.floor(i / 5)] ?? 0) / 3 ** (i % 5)) % 3;
      },
    },
    values: { kind: "affine", zero: 1 },
    scale: f16Per(32, 0),
  },
  finish: half(0),
};

/** A grid of integers as GPTQ and its like have them, its scale and zero point in front. */
function grid(shape: GridShape, inexact?: number): SampleType {
  const { scale, zero, min } = shape;
  const type = gridType(shape);
  const after = scale === "none" ? 0 : scale === "f32" ? 4 : 2;
  return {
    type: { ...type, name: `suite ${type.name}` },
    finish(block, uniform) {
      const value = 0.001 + 0.01 * uniform();
      if (scale === "f16") block.setUint16(0, floatToHalf(value), true);
      else if (scale === "bf16") block.setUint16(0, 0x3b00 + Math.floor(64 * uniform()), true);
      else if (scale === "f32") block.setFloat32(0, value, true);
      if (zero === "integer") block.setUint8(after, Math.floor(2 ** shape.bits * uniform()));
      else if (zero === "f16") block.setUint16(after, floatToHalf(2 ** shape.bits * uniform()), true);
      else if (zero === "f32") block.setFloat32(after, 2 ** shape.bits * uniform(), true);
      if (min) block.setUint16(after, floatToHalf(-(2 ** shape.bits) * value * uniform()), true);
    },
    ...(inexact && { inexact }),
  };
}

/** Values that are no small integers, as NF4 has them, under an f32 factor. */
const floats4: SampleType = {
  type: {
    name: "suite book of 16 numbers",
    block: 64,
    bytes: 36,
    code: { per: 1, pieces: [{ at: 32, bits: 4, dims: [[64, 4]] }] },
    values: {
      kind: "book",
      dimension: 1,
      table: Array.from({ length: 16 }, (_, i) => Math.fround(Math.sin(i))),
    },
    scale: { super: { field: { per: 64, pieces: [{ at: 0, bits: 32, dims: [] }] }, format: "f32" } },
  },
  finish: (block, uniform) => block.setFloat32(0, 0.01 + uniform(), true),
};

/** The same in eight bits, under a half. */
const floats8: SampleType = {
  type: {
    name: "suite book of 256 numbers",
    block: 128,
    bytes: 130,
    code: { per: 1, pieces: [{ at: 16, bits: 8, dims: [[128, 8]] }] },
    values: {
      kind: "book",
      dimension: 1,
      table: Array.from({ length: 256 }, (_, i) => Math.fround(Math.tan(i))),
    },
    scale: f16Per(128, 0),
  },
  finish: half(0),
};

/** A dense type; `finish` replaces the random bits, which might be no number. */
function dense(format: DenseFormat, write: (block: DataView, value: number) => void): SampleType {
  return {
    type: denseType(`suite ${format}`, format),
    finish: (block, uniform) => write(block, 2 * uniform() - 1),
  };
}

/** One of each family and of each trait that a description can have. */
export const packedTypes: readonly SampleType[] = [
  ints4,
  ints8,
  ints3,
  ints4Min,
  ints2Offset,
  plainInts,
  book4,
  bookSigns,
  bookParity,
  bookDelta,
  base3,
  grid({ bits: 4, group: 128, scale: "f16", zero: 8 }),
  grid({ bits: 4, group: 128, scale: "f16", zero: "integer" }),
  grid({ bits: 3, group: 64, scale: "bf16", zero: "integer" }),
  grid({ bits: 8, group: 32, scale: "f32", zero: "integer" }),
  grid({ bits: 2, group: 16, scale: "f16", zero: "integer" }),
  grid({ bits: 4, group: 32, scale: "none", zero: 8 }),
  grid({ bits: 4, group: 64, scale: "f16", zero: 0, min: "f16" }),
  // Kernels hold scale · zero point, which rounds once more than scale · (code − zero point).
  grid({ bits: 5, group: 64, scale: "f16", zero: "f16" }, 2 ** -20),
  grid({ bits: 4, group: 128, scale: "f32", zero: "f32" }, 2 ** -20),
  // The rounding at the end is left out by kernels that multiply integers: half a unit in the last of 11 places.
  grid({ bits: 6, group: 32, scale: "f16", zero: 32, round: "f16" }, 2 ** -11),
  floats4,
  floats8,
];

/** Groups that do not fill blocks of 32 columns, and last groups that are short. */
export const shortTypes: readonly SampleType[] = [
  grid({ bits: 4, group: 48, scale: "f16", zero: "integer" }),
  grid({ bits: 4, group: 16, scale: "f16", zero: "integer" }),
  grid({ bits: 3, group: 80, scale: "f16", zero: 4 }),
  grid({ bits: 3, group: 32, scale: "f16", zero: 4 }),
];

export const denseTypes: readonly SampleType[] = [
  dense("f32", (block, value) => block.setFloat32(0, value, true)),
  dense("f16", (block, value) => block.setUint16(0, floatToHalf(value), true)),
  dense("bf16", (block, value) => {
    block.setFloat32(0, value, true);
    block.setUint16(0, block.getUint16(2, true), true);
  }),
  dense("f64", (block, value) => block.setFloat64(0, value, true)),
  dense("f8-e4m3", (block, value) =>
    block.setUint8(0, 0x20 + Math.floor(16 * (value + 1)) + (value < 0 ? 128 : 0)),
  ),
  dense("f8-e5m2", (block, value) =>
    block.setUint8(0, 0x30 + Math.floor(8 * (value + 1)) + (value < 0 ? 128 : 0)),
  ),
  dense("i8", (block, value) => block.setInt8(0, Math.floor(127 * value))),
];

/** Blocks for `rows` rows of `columns` weights. */
export function randomBlocks(sample: SampleType, rows: number, columns: number, seed: number): Uint8Array {
  const { block, bytes } = sample.type;
  const uniform = random(seed);
  const count = (rows * columns) / block;
  const blocks = new Uint8Array(count * bytes);
  // A block of fewer than four bytes is written through room of eight.
  const room = new Uint8Array(Math.max(8, bytes));
  for (let b = 0; b < count; b++) {
    for (let i = 0; i < bytes; i++) room[i] = Math.floor(256 * uniform());
    sample.finish(new DataView(room.buffer), uniform);
    blocks.set(room.subarray(0, bytes), b * bytes);
  }
  return blocks;
}
