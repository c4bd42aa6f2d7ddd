import { definePlugin, type FileSet, type Format, type Plugin } from "@lowbit/core";
import { checkpoint, type GgufCheckpoint } from "./checkpoint.ts";
import type { GgufFamily } from "./config.ts";
import { ggufError } from "./container.ts";
import { closeShards, openShards } from "./split.ts";
import { ggufWriter } from "./writer.ts";

export interface GgufOptions {
  /** How to read the metadata of further architectures, by `general.architecture`; these also replace built-in ones. */
  families?: Readonly<Record<string, GgufFamily>>;
}

/** The plugin that `createEngine` takes. */
export function gguf(options: GgufOptions = {}): Plugin {
  return definePlugin({ name: "gguf", apiVersion: 1, formats: [ggufFormat(options)] });
}

/** The GGUF format: one file, or all parts of a split model; a folder if it holds a single model. */
export function ggufFormat(options: GgufOptions = {}): Format {
  return {
    name: "gguf",
    detect: detectGguf,
    open: (files, signal) => openGguf(files, signal, options),
    writer: ggufWriter,
  };
}

/** Opens a model. What only GGUF offers is on the checkpoint, too. Throws as `readGguf` and `modelConfig` do. */
export async function openGguf(
  files: FileSet,
  signal?: AbortSignal,
  options: GgufOptions = {},
): Promise<GgufCheckpoint> {
  const shards = await openShards(files, await entryOf(files, signal), signal);
  try {
    return checkpoint(shards, shards[0]?.source.name ?? files.name, options.families);
  } catch (error) {
    await closeShards(shards).catch(() => undefined);
    throw error;
  }
}

/** Certain if the magic is there; a file only named .gguf is still ours, so that its damage gets named. */
async function detectGguf(files: FileSet, signal?: AbortSignal): Promise<number> {
  const { entry } = files;
  if (entry === undefined) return (await candidates(files, signal)).length === 1 ? 0.9 : 0;
  const named = entry.toLowerCase().endsWith(".gguf") ? 0.6 : 0;
  const source = await files.open(entry, signal);
  try {
    const head = await source.read(0, Math.min(4, source.size), signal);
    return String.fromCharCode(...head) === "GGUF" ? 1 : named;
  } finally {
    await source.close?.();
  }
}

async function entryOf(files: FileSet, signal: AbortSignal | undefined): Promise<string> {
  if (files.entry !== undefined) return files.entry;
  const found = await candidates(files, signal);
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  const list = found.length === 0 ? "no GGUF file" : `several GGUF files (${found.join(", ")})`;
  throw ggufError("bad-argument", "ambiguous-file", `${files.name} holds ${list}.`, {
    hint: "Name the file.",
  });
}

/** GGUF files of a folder, each split model once. */
async function candidates(files: FileSet, signal: AbortSignal | undefined): Promise<string[]> {
  const names = await files.list(signal);
  return names.filter((name) => /\.gguf$/i.test(name) && !/-(?!00001)\d{5}-of-\d{5}\.gguf$/.test(name));
}
