import { existsSync, mkdirSync, renameSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { F16 } from "@lowbit/gguf";
import { modelShapes, type TinyModelOptions, writeTinyModel } from "@lowbit/testing/tiny-model";
import { type ConvertOptions, convert, inspect } from "lowbit";
import { isFileType, quantizerRecipe, type ShapeName } from "./recipe.ts";

/** Hugging Face folders, which lowbit alone runs here. */
export const folderTypes: Readonly<Record<string, ConvertOptions>> = {
  "GPTQ-4-g128": { to: "gptq", bits: 4, groupSize: 128 },
  "EXL2-4.25": { to: "exl2", bits: 4.25 },
};

const folder: string = fileURLToPath(new URL("../models/", import.meta.url));

/** A model to measure: random weights in a true shape. */
export interface BenchModel {
  /** A GGUF file, or a folder with a `config.json`. */
  readonly path: string;
  readonly isFolder: boolean;
  readonly fileBytes: number;
  readonly vocabularySize: number;
  readonly layers: number;
  /** Bytes of weights that one token reads. */
  readonly tokenBytes: number;
  /** Bytes of keys and values in f16, for each token of the context. */
  readonly kvBytes: number;
}

/** Written once, then kept. Folders are converted from a file of halves, as checkpoints are that people quantize. */
export async function benchModel(shape: ShapeName, type: string): Promise<BenchModel> {
  mkdirSync(folder, { recursive: true });
  const { layers = 2, tied = false } = modelShapes[shape];
  if (isFileType(type)) return described(await file(shape, type, quantizerRecipe(type, layers, tied)));
  const options = folderTypes[type];
  if (options === undefined) throw new Error(`There is no type ${JSON.stringify(type)}.`);
  const path = `${folder}${shape}-${type}`;
  if (!existsSync(path)) await convert(await file(shape, "F16", F16), path, options);
  return described(path);
}

async function file(shape: ShapeName, name: string, type: TinyModelOptions["type"]): Promise<string> {
  const path = `${folder}${shape}-${name}.gguf`;
  if (existsSync(path)) return path;
  await writeTinyModel(`${path}.part`, { ...modelShapes[shape], ...(type && { type }) });
  renameSync(`${path}.part`, path);
  return path;
}

/** The same for a model of one's own. */
export async function described(path: string): Promise<BenchModel> {
  const { config, tensors } = await inspect(path);
  if (config === undefined) throw new Error(`${path} is of an architecture that lowbit does not know.`);
  const { vocabularySize, layers, kvHeads, keySize, valueSize } = config;
  const roles = new Set(tensors.map(({ role }) => role));
  // An embedding is read row by row, unless it serves as output matrix, too.
  const read = tensors.filter(({ role }) => role !== "embed" || !roles.has("head"));
  const sum = (list: typeof tensors) => list.reduce((total, { bytes }) => total + bytes, 0);
  const isFolder = statSync(path).isDirectory();
  return {
    path,
    isFolder,
    fileBytes: isFolder ? sum(tensors) : statSync(path).size,
    vocabularySize,
    layers,
    tokenBytes: sum(read),
    kvBytes: 2 * layers * kvHeads * (keySize + valueSize),
  };
}
