// biome-ignore-all format: one description is a few lines, and its dimension lists read as rows

import {
  type BitField,
  type BitPiece,
  type CodeValues,
  denseType,
  type QuantType,
  type ScaleFormat,
} from "@lowbit/core";
import { iq1s, iq2s, iq2xs, iq2xxs, iq3s, iq3xxs, type PackedGrid, unpackGrid } from "./tables/grids.ts";

type Dims = readonly (readonly [count: number, stride: number])[];

/** A piece that starts at bit `bit` of byte `byte`. */
function piece(byte: number, bits: number, dims: Dims, bit = 0): BitPiece {
  return { at: byte * 8 + bit, bits, dims };
}

function field(per: number, ...pieces: BitPiece[]): BitField {
  return { per, pieces };
}

/** Codes of one weight each. */
function codes(...pieces: BitPiece[]): BitField {
  return field(1, ...pieces);
}

/** A number that covers a whole block of `block` weights, at byte `byte`. */
function whole(block: number, byte: number, format: ScaleFormat = "f16"): { field: BitField; format: ScaleFormat } {
  return { field: field(block, piece(byte, format === "f32" ? 32 : 16, [])), format };
}

function affine(zero: number): CodeValues {
  return { kind: "affine", zero };
}

function book(table: readonly number[]): CodeValues {
  return { kind: "book", dimension: 1, table };
}

/** A codebook that unpacks when it is first looked at. */
function grid(packed: PackedGrid): CodeValues {
  let table: readonly number[] | undefined;
  return {
    kind: "book",
    dimension: packed.dimension,
    get table(): readonly number[] {
      table ??= unpackGrid(packed);
      return table;
    },
  };
}

/** Low nibbles hold the first half of 32 weights, high nibbles the second. */
const halves: Dims = [[16, 8], [2, 4]];
/** 2 bits of 256 weights: four weights, 32 apart, share a byte; 32 bytes hold 128 weights. */
const quarters: Dims = [[32, 8], [4, 2], [2, 256]];
/** 4 bits of 256 weights: two weights, 32 apart, share a byte; 32 bytes hold 64 weights. */
const nibbles: Dims = [[32, 8], [2, 4], [4, 256]];

/** Doubled E2M1. */
const fp4: CodeValues = book([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]);
/** The non-linear levels of IQ4. */
const iq4: CodeValues = book([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]);

/** Q4_K and Q5_K: twelve bytes hold eight 6-bit scales and mins; the last four of each are split. */
const sixBitScale: BitField = field(32, piece(4, 4, [[4, 8], [2, 64]]), piece(4, 2, [[4, 8], [2, 2]], 4));
const sixBitMin: BitField = field(32, piece(8, 4, [[4, 8], [2, 36]]), piece(8, 2, [[4, 8], [2, 2]], 4));

export const F32: QuantType = denseType("F32", "f32");
export const F16: QuantType = denseType("F16", "f16");
export const BF16: QuantType = denseType("BF16", "bf16");
export const F64: QuantType = denseType("F64", "f64");
export const I8: QuantType = denseType("I8", "i8");
export const I16: QuantType = denseType("I16", "i16");
export const I32: QuantType = denseType("I32", "i32");
export const I64: QuantType = denseType("I64", "i64");

export const Q4_0: QuantType = {
  name: "Q4_0", block: 32, bytes: 18,
  code: codes(piece(2, 4, halves)), values: affine(8),
  scale: { super: whole(32, 0) },
};

export const Q4_1: QuantType = {
  name: "Q4_1", block: 32, bytes: 20,
  code: codes(piece(4, 4, halves)), values: affine(0),
  scale: { super: whole(32, 0) }, min: { super: whole(32, 2), multiplier: -1 },
};

export const Q5_0: QuantType = {
  name: "Q5_0", block: 32, bytes: 22,
  code: codes(piece(6, 4, halves), piece(2, 1, [[32, 1]])), values: affine(16),
  scale: { super: whole(32, 0) },
};

export const Q5_1: QuantType = {
  name: "Q5_1", block: 32, bytes: 24,
  code: codes(piece(8, 4, halves), piece(4, 1, [[32, 1]])), values: affine(0),
  scale: { super: whole(32, 0) }, min: { super: whole(32, 2), multiplier: -1 },
};

export const Q8_0: QuantType = {
  name: "Q8_0", block: 32, bytes: 34,
  code: { ...codes(piece(2, 8, [[32, 8]])), signed: true }, values: affine(0),
  scale: { super: whole(32, 0) },
};

/** For activations: bytes 2 and 3 hold the sum of the values, which decoding does not need. */
export const Q8_1: QuantType = {
  name: "Q8_1", block: 32, bytes: 36,
  code: { ...codes(piece(4, 8, [[32, 8]])), signed: true }, values: affine(0),
  scale: { super: whole(32, 0) },
};

/** For activations: the last 32 bytes hold sums of 16 codes each. */
export const Q8_K: QuantType = {
  name: "Q8_K", block: 256, bytes: 292,
  code: { ...codes(piece(4, 8, [[256, 8]])), signed: true }, values: affine(0),
  scale: { super: whole(256, 0, "f32") },
};

export const Q1_0: QuantType = {
  name: "Q1_0", block: 128, bytes: 18,
  code: codes(piece(2, 1, [[128, 1]])), values: book([-1, 1]),
  scale: { super: whole(128, 0) },
};

export const Q2_0: QuantType = {
  name: "Q2_0", block: 64, bytes: 18,
  code: codes(piece(2, 2, [[64, 2]])), values: affine(1),
  scale: { super: whole(64, 0) },
};

export const Q2_K: QuantType = {
  name: "Q2_K", block: 256, bytes: 84,
  code: codes(piece(16, 2, quarters)), values: affine(0),
  scale: { super: whole(256, 80), sub: { field: field(16, piece(0, 4, [[16, 8]])) } },
  min: { super: whole(256, 82), sub: { field: field(16, piece(0, 4, [[16, 8]], 4)) } },
};

export const Q3_K: QuantType = {
  name: "Q3_K", block: 256, bytes: 110,
  code: codes(piece(32, 2, quarters), piece(0, 1, [[32, 8], [8, 1]])), values: affine(4),
  scale: {
    super: whole(256, 108),
    sub: { field: field(16, piece(96, 4, [[8, 8], [2, 4]]), piece(104, 2, [[4, 8], [4, 2]])), offset: -32 },
  },
};

export const Q4_K: QuantType = {
  name: "Q4_K", block: 256, bytes: 144,
  code: codes(piece(16, 4, nibbles)), values: affine(0),
  scale: { super: whole(256, 0), sub: { field: sixBitScale } },
  min: { super: whole(256, 2), sub: { field: sixBitMin } },
};

export const Q5_K: QuantType = {
  name: "Q5_K", block: 256, bytes: 176,
  code: codes(piece(48, 4, nibbles), piece(16, 1, [[32, 8], [8, 1]])), values: affine(0),
  scale: { super: whole(256, 0), sub: { field: sixBitScale } },
  min: { super: whole(256, 2), sub: { field: sixBitMin } },
};

export const Q6_K: QuantType = {
  name: "Q6_K", block: 256, bytes: 210,
  code: codes(piece(0, 4, [[32, 8], [2, 256], [2, 4], [2, 512]]), piece(128, 2, quarters)), values: affine(32),
  scale: { super: whole(256, 208), sub: { field: { ...field(16, piece(192, 8, [[16, 8]])), signed: true } } },
};

/** Ternary, base 3: five digits to a byte (four in the last four bytes), the byte being ⌈256·value/243⌉. */
export const TQ1_0: QuantType = {
  name: "TQ1_0", block: 256, bytes: 54,
  code: { per: 1, bits: 2, unpack: unpackTernary }, values: affine(1),
  scale: { super: whole(256, 52) },
};

export const TQ2_0: QuantType = {
  name: "TQ2_0", block: 256, bytes: 66,
  code: codes(piece(0, 2, quarters)), values: affine(1),
  scale: { super: whole(256, 64) },
};

export const MXFP4: QuantType = {
  name: "MXFP4", block: 32, bytes: 17,
  code: codes(piece(1, 4, halves)), values: fp4,
  scale: { super: { field: field(32, piece(0, 8, [])), format: "e8m0-half" } },
};

export const NVFP4: QuantType = {
  name: "NVFP4", block: 64, bytes: 36,
  code: codes(piece(4, 4, [[8, 8], [2, 4], [4, 64]])), values: fp4,
  scale: { super: { field: field(16, piece(0, 8, [[4, 8]])), format: "ue4m3-half" } },
};

export const IQ4_NL: QuantType = {
  name: "IQ4_NL", block: 32, bytes: 18,
  code: codes(piece(2, 4, halves)), values: iq4,
  scale: { super: whole(32, 0) },
};

export const IQ4_XS: QuantType = {
  name: "IQ4_XS", block: 256, bytes: 136,
  code: codes(piece(8, 4, [[16, 8], [2, 4], [8, 128]])), values: iq4,
  scale: { super: whole(256, 0), sub: { field: field(32, piece(4, 4, [[8, 4]]), piece(2, 2, [[8, 2]])), offset: -32 } },
};

/** Per 32 weights: four 8-bit indices, then a word with four 7-bit signs and a 4-bit scale. */
export const IQ2_XXS: QuantType = {
  name: "IQ2_XXS", block: 256, bytes: 66,
  code: field(8, piece(2, 8, [[4, 8], [8, 64]])), values: grid(iq2xxs),
  sign: { field: field(8, piece(6, 7, [[4, 7], [8, 64]])), parity: true },
  scale: {
    super: whole(256, 0),
    sub: { field: field(32, piece(6, 4, [[8, 64]], 28)), offset: 0.5 },
    multiplier: 0.25,
  },
};

export const IQ2_XS: QuantType = {
  name: "IQ2_XS", block: 256, bytes: 74,
  code: field(8, piece(2, 9, [[32, 16]])), values: grid(iq2xs),
  sign: { field: field(8, piece(2, 7, [[32, 16]], 9)), parity: true },
  scale: { super: whole(256, 0), sub: { field: field(16, piece(66, 4, [[16, 4]])), offset: 0.5 }, multiplier: 0.25 },
};

export const IQ2_S: QuantType = {
  name: "IQ2_S", block: 256, bytes: 82,
  code: field(8, piece(2, 8, [[32, 8]]), piece(66, 2, [[32, 2]])), values: grid(iq2s),
  sign: { field: field(8, piece(34, 8, [[32, 8]])) },
  scale: { super: whole(256, 0), sub: { field: field(16, piece(74, 4, [[16, 4]])), offset: 0.5 }, multiplier: 0.25 },
};

/** Per 32 weights: eight 8-bit indices; behind all of them a word each with four 7-bit signs and a 4-bit scale. */
export const IQ3_XXS: QuantType = {
  name: "IQ3_XXS", block: 256, bytes: 98,
  code: field(4, piece(2, 8, [[64, 8]])), values: grid(iq3xxs),
  sign: { field: field(8, piece(66, 7, [[4, 7], [8, 32]])), parity: true },
  scale: {
    super: whole(256, 0),
    sub: { field: field(32, piece(66, 4, [[8, 32]], 28)), offset: 0.5 },
    multiplier: 0.5,
  },
};

export const IQ3_S: QuantType = {
  name: "IQ3_S", block: 256, bytes: 110,
  code: field(4, piece(2, 8, [[64, 8]]), piece(66, 1, [[64, 1]])), values: grid(iq3s),
  sign: { field: field(8, piece(74, 8, [[32, 8]])) },
  scale: { super: whole(256, 0), sub: { field: field(32, piece(106, 4, [[8, 4]])), offset: 0.5 }, multiplier: 2 },
};

/** Per 32 weights a word: the high 3 bits of four indices, a 3-bit scale, the sign of delta. */
export const IQ1_S: QuantType = {
  name: "IQ1_S", block: 256, bytes: 50,
  code: field(8, piece(2, 8, [[32, 8]]), piece(34, 3, [[4, 3], [8, 16]])), values: grid(iq1s),
  delta: { field: field(32, piece(34, 1, [[8, 16]], 15)), values: [0.125, -0.125] },
  scale: { super: whole(256, 0), sub: { field: field(32, piece(34, 3, [[8, 16]], 12)), offset: 0.5 }, multiplier: 2 },
};

/** The f16 super-scale is spread over the top four bits of the four scale words. */
export const IQ1_M: QuantType = {
  name: "IQ1_M", block: 256, bytes: 56,
  code: field(8, piece(0, 8, [[32, 8]]), piece(32, 3, [[32, 4]])), values: grid(iq1s),
  delta: { field: field(8, piece(32, 1, [[32, 4]], 3)), values: [0.125, -0.125] },
  scale: {
    super: { field: field(256, ...[48, 50, 52, 54].map((byte) => piece(byte, 4, [], 12))), format: "f16" },
    sub: { field: field(16, piece(48, 3, [[4, 3], [4, 16]])), offset: 0.5 },
    multiplier: 2,
  },
};

/** ggml's tensor types by their id in a file. */
export const ggmlTypes: ReadonlyMap<number, QuantType> = new Map([
  [0, F32], [1, F16], [2, Q4_0], [3, Q4_1], [6, Q5_0], [7, Q5_1], [8, Q8_0], [9, Q8_1],
  [10, Q2_K], [11, Q3_K], [12, Q4_K], [13, Q5_K], [14, Q6_K], [15, Q8_K],
  [16, IQ2_XXS], [17, IQ2_XS], [18, IQ3_XXS], [19, IQ1_S], [20, IQ4_NL], [21, IQ3_S], [22, IQ2_S], [23, IQ4_XS],
  [24, I8], [25, I16], [26, I32], [27, I64], [28, F64], [29, IQ1_M], [30, BF16],
  [34, TQ1_0], [35, TQ2_0], [39, MXFP4], [40, NVFP4], [41, Q1_0], [42, Q2_0],
]);

/** The reverse of `ggmlTypes`. */
export const ggmlTypeIds: ReadonlyMap<QuantType, number> = new Map([...ggmlTypes].map(([id, type]) => [type, id]));

/** Ids that once were types and are no longer, with their names for the error message. */
export const removedTypes: ReadonlyMap<number, string> = new Map([
  [4, "Q4_2"], [5, "Q4_3"],
  [31, "Q4_0_4_4"], [32, "Q4_0_4_8"], [33, "Q4_0_8_8"],
  [36, "IQ4_NL_4_4"], [37, "IQ4_NL_4_8"], [38, "IQ4_NL_8_8"],
]);

/** Digit n of a byte is the integer part of 3 · fraction(3ⁿ · byte / 256). */
function unpackTernary(block: Uint8Array, out: Uint8Array): void {
  let e = 0;
  for (const [from, bytes, digits] of [[0, 32, 5], [32, 16, 5], [48, 4, 4]] as const) {
    for (let n = 0, power = 1; n < digits; n++, power *= 3) {
      for (let i = from; i < from + bytes; i++) out[e++] = ((((block[i] ?? 0) * power) & 255) * 3) >> 8;
    }
  }
}
