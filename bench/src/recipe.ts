import type { QuantType } from "@lowbit/core";
import { F16, ggmlTypes } from "@lowbit/gguf";
import { modelShapes } from "@lowbit/testing/tiny-model";

export type ShapeName = keyof typeof modelShapes;

/** What `llama-quantize` is asked for: every matrix in one type, but for the exceptions below. */
export const fileTypes = ["Q4_0", "Q8_0", "Q4_K_M", "Q6_K"] as const;
export type FileType = (typeof fileTypes)[number];

export function isShape(name: string): name is ShapeName {
  return Object.hasOwn(modelShapes, name);
}

export function isFileType(name: string): name is FileType {
  return (fileTypes as readonly string[]).includes(name);
}

/** What takes the place of a type whose rows must be multiples of 256, where they are not. */
const fallbacks: Readonly<Record<string, string>> = { Q4_K: "Q5_0", Q5_K: "Q5_1", Q6_K: "Q8_0" };

/**
 * The type of each matrix as llama.cpp's quantizer leaves it without an importance matrix: the output matrix, or the embedding where it
 * serves as one, in Q6_K (Q8_0 files: Q8_0); in Q4_K_M, half of the value and down projections in Q6_K; and rows that are no multiple of
 * 256 in the type's fallback.
 */
export function quantizerRecipe(
  fileType: FileType,
  layers: number,
  tied: boolean,
): (name: string, shape: readonly number[]) => QuantType {
  const base = fileType === "Q4_K_M" ? "Q4_K" : fileType;
  return (name, shape) => {
    let wanted: string = base;
    if (name === (tied ? "token_embd.weight" : "output.weight")) {
      wanted = base === "Q8_0" ? base : "Q6_K";
    } else if (fileType === "Q4_K_M" && /^blk\.\d+\.(attn_v|ffn_down)\.weight$/.test(name)) {
      const layer = Number(name.split(".")[1]);
      if (wantsMoreBits(layer, layers)) wanted = "Q6_K";
    }
    return typeOf(wanted, shape.at(-1) ?? 0);
  };
}

/** The first and the last eighth of the layers, and every third between. */
function wantsMoreBits(layer: number, layers: number): boolean {
  const eighth = Math.floor(layers / 8);
  return layer < eighth || layer >= Math.floor((7 * layers) / 8) || (layer - eighth) % 3 === 2;
}

function typeOf(name: string, columns: number): QuantType {
  const type = typeNamed(name);
  if (columns % type.block === 0) return type;
  const fallback = fallbacks[name];
  return fallback === undefined || columns % typeNamed(fallback).block !== 0 ? F16 : typeNamed(fallback);
}

function typeNamed(name: string): QuantType {
  for (const type of ggmlTypes.values()) if (type.name === name) return type;
  throw new Error(`No ggml type is called ${name}.`);
}
