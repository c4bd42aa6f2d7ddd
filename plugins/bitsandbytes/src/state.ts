import { type JsonValue, parseJson } from "@lowbit/core";
import type { Nested } from "./nested.ts";
import { type FourBit, fail } from "./types.ts";

/** What the JSON in a `quant_state` tensor says about one 4-bit weight. */
export interface QuantState {
  readonly kind: FourBit;
  /** Weights that share an absmax, counted through the rows: a block may begin in one and end in the next. */
  readonly blockSize: number;
  /** Of the values before quantization: "float16". */
  readonly dtype: string;
  readonly out: number;
  readonly in: number;
  /** Absmaxes are codes of 8 bits, quantized in blocks themselves. */
  readonly nested?: Pick<Nested, "blockSize" | "offset">;
}

export const stateDtypes = ["float16", "bfloat16", "float32"] as const;

const maxBytes = 65_536;

/** Reads it. Throws `file-corrupt` with reasons invalid-json, duplicate, invalid-config. */
export function parseState(where: string, kind: FourBit, bytes: Uint8Array): QuantState {
  const invalid = (what: string): Error => fail("invalid-config", `${where}: its quant_state ${what}`);
  if (bytes.length > maxBytes) throw invalid(`has ${bytes.length} bytes`);
  const state = parseJson(new TextDecoder().decode(bytes), `${where}: its quant_state`);
  const get = (key: string): JsonValue | undefined => (state instanceof Map ? state.get(key) : undefined);
  if (get("quant_type") !== kind)
    throw invalid(`is named ${kind}, but its quant_type is ${JSON.stringify(get("quant_type"))}`);
  const blockSize = blockSizeOf(get("blocksize"), 32, 4096);
  if (blockSize === undefined)
    throw invalid(`has blocksize ${JSON.stringify(get("blocksize"))}, not a power of two from 32 to 4096`);
  const dtype = stateDtypes.find((dtype) => dtype === get("dtype"));
  if (!dtype)
    throw invalid(`has dtype ${JSON.stringify(get("dtype"))}, not one of ${stateDtypes.join(", ")}`);
  const shape = get("shape");
  const sizes: readonly JsonValue[] = Array.isArray(shape) ? shape : [];
  const [out, columns] = sizes;
  if (sizes.length !== 2 || !isSize(out) || !isSize(columns) || !Number.isSafeInteger(out * columns)) {
    throw invalid(`has shape ${JSON.stringify(shape)}, not [outputs, inputs]`);
  }
  const common = { kind, blockSize, dtype, out, in: columns };
  if (!["nested_blocksize", "nested_offset", "nested_dtype"].some((key) => get(key) !== undefined))
    return common;
  const nestedSize = blockSizeOf(get("nested_blocksize"), 32, 4096);
  if (nestedSize === undefined)
    throw invalid(`has nested_blocksize ${JSON.stringify(get("nested_blocksize"))}`);
  const nestedType = get("nested_dtype");
  if (nestedType !== undefined && nestedType !== "float32")
    throw invalid(`has nested_dtype ${JSON.stringify(nestedType)}, not float32`);
  const offset = get("nested_offset");
  if (typeof offset !== "number" || !Number.isFinite(Math.fround(offset)))
    throw invalid(`has nested_offset ${JSON.stringify(offset)}, not a number`);
  return { ...common, nested: { blockSize: nestedSize, offset: Math.fround(offset) } };
}

function isSize(value: JsonValue | undefined): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}

function blockSizeOf(value: JsonValue | undefined, least: number, most: number): number | undefined {
  const valid =
    typeof value === "number" && value >= least && value <= most && Number.isInteger(Math.log2(value));
  return valid ? value : undefined;
}

/** The same JSON as the reference writes it: Python's spacing and spelling of numbers. */
export function formatState(state: QuantState): Uint8Array {
  const { kind, blockSize, dtype, nested } = state;
  const pairs = [
    `"quant_type": "${kind}"`,
    `"blocksize": ${blockSize}`,
    `"dtype": "${dtype}"`,
    `"shape": [${state.out}, ${state.in}]`,
    ...(nested
      ? [
          `"nested_blocksize": ${nested.blockSize}`,
          '"nested_dtype": "float32"',
          `"nested_offset": ${pythonNumber(nested.offset)}`,
        ]
      : []),
  ];
  return new TextEncoder().encode(`{${pairs.join(", ")}}`);
}

/** A float as Python's repr spells it: the same digits, "1.0" for whole numbers, an exponent of two digits below 1e-4. */
export function pythonNumber(value: number): string {
  if (Object.is(value, -0)) return "-0.0";
  const magnitude = Math.abs(value);
  if (value !== 0 && (magnitude < 1e-4 || magnitude >= 1e16)) {
    return value.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  }
  return Number.isInteger(value) ? `${value}.0` : String(value);
}
