import {
  type Checkpoint,
  definePlugin,
  type FileSet,
  type Format,
  LowbitError,
  type PackedCheckpoint,
  type Packing,
  type Plugin,
} from "@lowbit/core";
import { openSafetensors, type SafetensorsFiles } from "@lowbit/packing";
import { checkpoint, flatten } from "./checkpoint.ts";
import type { JsonObject } from "./config-fields.ts";
import { safetensorsError } from "./errors.ts";
import { Folder } from "./folder.ts";
import { type HuggingFaceModel, huggingFaceModel } from "./hugging-face-config.ts";
import { type OpenedPacking, openPacking } from "./packings.ts";
import { writeHuggingFace } from "./write.ts";

/** Hugging Face checkpoints: config.json, tokenizer files and plain or packed safetensors weights. */
export function safetensors(): Plugin {
  return definePlugin({ name: "safetensors", apiVersion: 1, formats: [safetensorsFormat()] });
}

/** A folder, its config.json, its index, or one of its weight files. */
export function safetensorsFormat(): Format {
  return { name: "safetensors", detect, open, writer: writeHuggingFace };
}

const indexFile = "model.safetensors.index.json";
const shard = /-\d{5}-of-\d{5}\.safetensors$/;

/** Certain with weights and config.json; a file only named so is still ours, so that its damage gets named. */
async function detect(files: FileSet, signal?: AbortSignal): Promise<number> {
  const { entry } = files;
  if (entry === undefined) {
    const names = await files.list(signal);
    if (!names.some((name) => /\.safetensors(\.index\.json)?$/.test(name))) return 0;
    return names.includes("config.json") ? 0.95 : 0.4;
  }
  if (entry === "config.json") return 0.9;
  if (/\.safetensors(\.index\.json)?$/.test(entry)) return 0.9;
  const source = await files.open(entry, signal);
  try {
    if (source.size < 9) return 0;
    const head = await source.read(0, 9, signal);
    const length = new DataView(head.buffer, head.byteOffset, 8).getBigUint64(0, true);
    return head[8] === 0x7b && length < BigInt(source.size) ? 0.8 : 0;
  } finally {
    await source.close?.();
  }
}

/** Opens a checkpoint: everything but the weights is read and checked. */
async function open(
  files: FileSet,
  signal?: AbortSignal,
  packings: readonly Packing[] = [],
): Promise<Checkpoint> {
  const folder = new Folder(files, signal);
  const config = await folder.json("config.json");
  const tensors = await openSafetensors(await weightFiles(files, signal), signal);
  try {
    const { quantization, quantizationFile } = await quantizationOf(folder, config);
    const packed = await openPacking(
      {
        name: files.name,
        quantization,
        quantizationFile,
        tensors: tensors.tensors,
        read: (tensor, signal) => tensors.read(tensor.name, signal),
      },
      packings,
      signal,
    );
    const tokenizer = await folder.tokenizer(config);
    return checkpoint({
      file: files.name,
      files: tensors,
      model: deferred(files, config),
      packed: packed?.modules,
      metadata: describe(config, tensors, packed, quantization !== undefined),
      tokenizer,
      companions: (signal) => new Folder(files, signal).companions(),
    });
  } catch (error) {
    await tensors.close().catch(() => undefined);
    throw error;
  }
}

/** The configuration, later; but damage at once. What only no architecture here runs can still be inspected. */
function deferred(files: FileSet, config: JsonObject | undefined): () => HuggingFaceModel {
  try {
    if (config === undefined) {
      throw safetensorsError(
        "architecture-unsupported",
        "missing-config",
        `${files.name} has no config.json beside its weights.`,
        { hint: "Download the whole checkpoint, and name its folder." },
      );
    }
    const model = huggingFaceModel(config, `${files.name}: config.json`);
    return () => model;
  } catch (error) {
    if (!LowbitError.is(error) || error.code !== "architecture-unsupported") throw error;
    return () => {
      throw error;
    };
  }
}

/** The files that core is to open: a shard or config.json stand for the whole checkpoint. */
async function weightFiles(files: FileSet, signal: AbortSignal | undefined): Promise<FileSet> {
  const { entry } = files;
  if (entry !== "config.json" && !(entry && shard.test(entry))) return files;
  for (const candidate of [indexFile, "model.safetensors"]) {
    try {
      const source = await files.open(candidate, signal);
      await source.close?.();
      return { ...bound(files), entry: candidate };
    } catch (error) {
      if (!LowbitError.is(error) || error.code !== "not-found") throw error;
    }
  }
  return { ...bound(files), entry: undefined };
}

function bound(files: FileSet): FileSet {
  return {
    name: files.name,
    entry: files.entry,
    list: (signal) => files.list(signal),
    open: (file, signal) => files.open(file, signal),
  };
}

/** The tools put it into config.json, or into files of their own. */
async function quantizationOf(
  folder: Folder,
  config: JsonObject | undefined,
): Promise<Pick<PackedCheckpoint, "quantization" | "quantizationFile">> {
  const own = config?.get("quantization_config") ?? config?.get("compression_config");
  if (own instanceof Map) return { quantization: own, quantizationFile: "config.json" };
  for (const file of ["quantize_config.json", "quant_config.json", "hf_quant_config.json"]) {
    const found = await folder.json(file);
    if (found) return { quantization: found, quantizationFile: file };
  }
  return { quantization: undefined, quantizationFile: undefined };
}

function describe(
  config: JsonObject | undefined,
  { metadata }: SafetensorsFiles,
  packed: OpenedPacking | undefined,
  declared: boolean,
): Map<string, unknown> {
  const all = new Map<string, unknown>();
  if (packed) {
    all.set("packing", packed.packing.name);
    for (const [key, value] of packed.modules.metadata) all.set(`packing.${key}`, value);
  } else if (declared) all.set("packing", "none: quantization is declared, but no module is packed");
  for (const [key, value] of metadata) all.set(`safetensors.${key}`, value);
  return config ? flatten(config, "", all) : all;
}
