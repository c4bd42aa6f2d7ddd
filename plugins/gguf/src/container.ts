import { LowbitError, type LowbitErrorCode, type QuantType } from "@lowbit/core";

/** Value types of metadata, by their number in a file. 9 is an array of one of the others. */
export const scalarTypes = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  undefined,
  "u64",
  "i64",
  "f64",
] as const;

/** The number of "array" among the value types. */
export const arrayType = 9;

export type GgufScalar = NonNullable<(typeof scalarTypes)[number]>;
/** A metadata value's type, as the file declares it. */
export type GgufType = GgufScalar | `${GgufScalar}[]`;

/**
 * Numbers are numbers (64-bit ones bigints where a number would round), strings strings. Arrays of numbers are the typed
 * array of their element type; of strings and booleans plain arrays.
 */
export type GgufValue = number | bigint | boolean | string | GgufArray;
export type GgufArray = readonly string[] | readonly boolean[] | NumericArray;
export type NumericArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | BigUint64Array
  | BigInt64Array
  | Float64Array;

/** A metadata value together with the type it is stored as. */
export interface GgufEntry {
  readonly type: GgufType;
  readonly value: GgufValue;
}

/** A row of the tensor table. */
export interface GgufTensor {
  readonly name: string;
  /** Slowest dimension first: [out, in]. The file stores it the other way round. */
  readonly shape: readonly number[];
  readonly type: QuantType;
  /** From the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** What stands in one file before its tensor data. */
export interface GgufHeader {
  readonly version: 1 | 2 | 3;
  readonly bigEndian: boolean;
  /** Tensors start at multiples of this. */
  readonly alignment: number;
  readonly metadata: ReadonlyMap<string, GgufEntry>;
  readonly tensors: readonly GgufTensor[];
  /** Where the tensor data starts, from the start of the file; the header's length if there are no tensors. */
  readonly dataOffset: number;
}

/** Bytes of one number of a type; 0 where the length varies. */
export const scalarBytes: Readonly<Record<GgufScalar, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  string: 0,
  u64: 8,
  i64: 8,
  f64: 8,
};

/** Alignment of tensor data where `general.alignment` is absent. */
export const defaultAlignment = 32;

/** The next multiple of `alignment`. Plain arithmetic, since offsets exceed 32 bits. */
export function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

/** Bytes of a tensor of this shape; undefined if rows are not whole blocks or the count is not a safe integer. */
export function tensorBytes(type: QuantType, shape: readonly number[]): number | undefined {
  const elements = shape.reduce((product, size) => product * size, 1);
  if ((shape.at(-1) ?? 1) % type.block !== 0) return undefined;
  const bytes = (elements / type.block) * type.bytes;
  return Number.isSafeInteger(elements) && Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Metadata without the types: what tokenizers and configurations read. */
export function plainMetadata(metadata: ReadonlyMap<string, GgufEntry>): Map<string, GgufValue> {
  return new Map([...metadata].map(([key, { value }]) => [key, value]));
}

/** An error of this plugin. */
export function ggufError(
  code: LowbitErrorCode,
  reason: string,
  message: string,
  options: { hint?: string; cause?: unknown } = {},
): LowbitError {
  return new LowbitError(code, message, { reason, plugin: "gguf", ...options });
}
