import { type BitField, LowbitError, type QuantType } from "@lowbit/core";
import {
  ggmlTypes,
  IQ1_M,
  IQ1_S,
  IQ2_XS,
  IQ2_XXS,
  IQ3_XXS,
  IQ4_XS,
  Q5_0,
  Q5_1,
  Q8_1,
  Q8_K,
} from "./types.ts";

/** `count` words of `size` bytes in a block, `stride` bytes apart, from byte `at`. */
interface Words {
  readonly at: number;
  readonly size: 2 | 4 | 8;
  readonly count: number;
  readonly stride: number;
}

function words(at: number, size: Words["size"], count = 1, stride: number = size): Words {
  return { at, size, count, stride };
}

/**
 * Words beside the f16 and f32 scales, which the type's description names: those that ggml reads through a u16 or u32. Its
 * byte arrays keep their order.
 */
const others: ReadonlyMap<QuantType, readonly Words[]> = new Map([
  [Q5_0, [words(2, 4)]],
  [Q5_1, [words(4, 4)]],
  [Q8_1, [words(2, 2)]],
  [Q8_K, [words(260, 2, 16)]],
  [IQ1_S, [words(34, 2, 8)]],
  [IQ1_M, [words(48, 2, 4)]],
  [IQ2_XXS, [words(6, 4, 8, 8)]],
  [IQ2_XS, [words(2, 2, 32)]],
  [IQ3_XXS, [words(66, 4, 8)]],
  [IQ4_XS, [words(2, 2)]],
]);

/** Where the multi-byte words of one block lie. */
export function wordsOf(type: QuantType): readonly Words[] {
  if (type.values.kind === "dense") return type.bytes === 1 ? [] : [words(0, type.bytes as Words["size"])];
  const scales = [type.scale?.super?.field, type.min?.super?.field].flatMap((field) => scaleWord(field));
  return [...scales, ...(others.get(type) ?? [])];
}

/** A scale that is one whole f16 or f32. */
function scaleWord(field: BitField | undefined): Words[] {
  const [piece, ...more] = field?.pieces ?? [];
  if (piece === undefined || more.length > 0 || piece.bits < 16) return [];
  return [words(piece.at / 8, piece.bits === 32 ? 4 : 2)];
}

/**
 * Blocks of a big-endian file in little-endian order, or the reverse: a copy in which the words inside each block have
 * their bytes turned round. `type` is a ggml type or its id.
 */
export function swapBlocks(type: QuantType | number, bytes: Uint8Array): Uint8Array {
  const quant = typeof type === "number" ? ggmlTypes.get(type) : type;
  if (quant === undefined) {
    throw new LowbitError("type-unsupported", `There is no ggml tensor type ${type}.`, {
      reason: "unknown-type",
      plugin: "gguf",
    });
  }
  const out = Uint8Array.from(bytes);
  for (const { at, size, count, stride } of wordsOf(quant)) {
    for (let block = 0; block + quant.bytes <= out.length; block += quant.bytes) {
      for (let i = 0; i < count; i++) {
        const start = block + at + i * stride;
        out.subarray(start, start + size).reverse();
      }
    }
  }
  return out;
}
