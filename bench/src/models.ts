import { existsSync, mkdirSync, renameSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { ggmlTypes } from "@lowbit/gguf";
import { modelShapes, writeTinyModel } from "@lowbit/testing/tiny-model";

export type ShapeName = keyof typeof modelShapes;

const folder: string = fileURLToPath(new URL("../models/", import.meta.url));

/**
 * A file of random weights with a true shape: matrices in `typeName`, the tied embedding in Q8_0, as llama.cpp's
 * quantizer leaves it where rows are no multiple of 256. Written once, then kept.
 */
export async function benchModel(shape: ShapeName, typeName: string): Promise<string> {
  const find = (name: string) => [...ggmlTypes.values()].find((candidate) => candidate.name === name);
  const type = find(typeName);
  const embedding = find("Q8_0");
  if (type === undefined || embedding === undefined) throw new Error(`no ggml type is called ${typeName}`);
  const path = `${folder}${shape}-${typeName}.gguf`;
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  const options = modelShapes[shape];
  await writeTinyModel(`${path}.part`, {
    ...options,
    type: (name) => (name.startsWith("token_embd") ? embedding : type),
  });
  renameSync(`${path}.part`, path);
  return path;
}
