import { modelShapes, tinyModel } from "@lowbit/testing/tiny-model";
import { expect, it } from "vitest";
import { type FileType, fileTypes, quantizerRecipe, type ShapeName } from "./recipe.ts";

/** Bytes of all matrices, by type. */
function bytesOf(shape: ShapeName, fileType: FileType): Record<string, number> {
  const options = modelShapes[shape];
  const { tensors } = tinyModel({ ...options, type: quantizerRecipe(fileType, options.layers ?? 0, true) });
  const bytes: Record<string, number> = {};
  for (const { shape: sizes, type } of tensors) {
    if (sizes.length < 2) continue;
    const weights = sizes.reduce((product, size) => product * size, 1);
    bytes[type.name] = (bytes[type.name] ?? 0) + (weights / type.block) * type.bytes;
  }
  return bytes;
}

const megabytes = (bytes: Record<string, number>) =>
  Object.fromEntries(Object.entries(bytes).map(([name, count]) => [name, Math.round(count / 1e6)]));

it("a Q4_K_M file of a small model is mostly not Q4_K", () => {
  expect(megabytes(bytesOf("qwen2.5-0.5b", "Q4_K_M"))).toEqual({ Q5_0: 173, Q8_0: 146, Q6_K: 43, Q4_K: 29 });
});

it("rows that are multiples of 256 need no fallback", () => {
  expect(Object.keys(bytesOf("llama-3.2-1b", "Q4_K_M")).sort()).toEqual(["Q4_K", "Q6_K"]);
  expect(Object.keys(bytesOf("llama-3.2-1b", "Q6_K"))).toEqual(["Q6_K"]);
  expect(Object.keys(bytesOf("smollm2-135m", "Q6_K")).sort()).toEqual(["Q6_K", "Q8_0"]);
});

it("bytes read for each token are those of real files", () => {
  const total = (shape: ShapeName, type: FileType) =>
    Object.values(bytesOf(shape, type)).reduce((sum, count) => sum + count, 0) / 1e6;
  expect(fileTypes.map((type) => Math.round(total("qwen2.5-0.5b", type)))).toEqual([346, 525, 392, 500]);
  expect(total("smollm2-135m", "Q4_0")).toBeCloseTo(89.9, 0);
  expect(total("smollm2-135m", "Q4_K_M")).toBeCloseTo(103.7, 0);
});

it("the output matrix has more bits than the others, and the embedding has where it serves as one", () => {
  const tied = quantizerRecipe("Q4_K_M", 24, true);
  const untied = quantizerRecipe("Q4_K_M", 24, false);
  expect(tied("token_embd.weight", [1000, 1024]).name).toBe("Q6_K");
  expect(untied("token_embd.weight", [1000, 1024]).name).toBe("Q4_K");
  expect(untied("output.weight", [1000, 1024]).name).toBe("Q6_K");
  expect(quantizerRecipe("Q8_0", 24, false)("output.weight", [1000, 1024]).name).toBe("Q8_0");
});

it("a quarter of the layers at both ends and every third between have values and down projections in Q6_K", () => {
  const recipe = quantizerRecipe("Q4_K_M", 24, true);
  const layers = Array.from({ length: 24 }, (_, i) => i);
  const more = layers.filter((i) => recipe(`blk.${i}.ffn_down.weight`, [8, 256]).name === "Q6_K");
  expect(more).toEqual([0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
  expect(recipe("blk.0.ffn_up.weight", [8, 256]).name).toBe("Q4_K");
});
