import type { ByteSource, FileSet } from "@lowbit/core";
import { LowbitError, parseJson, type SafetensorsTensor } from "@lowbit/core";
import { readSafetensors } from "./safetensors.ts";

/** The tensors of one checkpoint, over all its files. */
export interface SafetensorsFiles {
  /** The `__metadata__` entries of all files; later files win. */
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
  /** One range read of a tensor's bytes. Throws `weight-missing`. */
  read(name: string, signal?: AbortSignal): Promise<Uint8Array>;
  close(): Promise<void>;
}

const indexSuffix = ".safetensors.index.json";
const maxIndexBytes = 100_000_000;

/**
 * Opens the safetensors files of a model. The entry is one file or an index. In a folder it is model.safetensors, else the
 * index, else every *.safetensors. Throws `not-found`, or `file-corrupt` as `readSafetensors` does, and for an index:
 * invalid-json, path-traversal, missing-shard, missing-tensor, duplicate. Nothing stays open then.
 */
export async function openSafetensors(files: FileSet, signal?: AbortSignal): Promise<SafetensorsFiles> {
  const { names, index } = await resolve(files, signal);
  const sources: ByteSource[] = [];
  try {
    const metadata = new Map<string, string>();
    const tensors = new Map<string, SafetensorsTensor>();
    const owners = new Map<string, ByteSource>();
    for (const file of names) {
      const source = await openShard(files, file, signal);
      sources.push(source);
      const header = await readSafetensors(source, signal);
      for (const [key, value] of header.metadata) metadata.set(key, value);
      for (const [name, tensor] of header.tensors) {
        if (index !== undefined && index.get(name) !== file) continue;
        if (tensors.has(name)) {
          throw fail("duplicate", `${source.name}: tensor ${JSON.stringify(name)} is in another file, too`);
        }
        tensors.set(name, tensor);
        owners.set(name, source);
      }
    }
    for (const [name, file] of index ?? []) {
      if (tensors.has(name)) continue;
      throw fail(
        "missing-tensor",
        `${files.name}: the index says tensor ${JSON.stringify(name)} is in ${file}`,
      );
    }
    return {
      metadata,
      tensors,
      async read(name, signal) {
        const tensor = tensors.get(name);
        const source = owners.get(name);
        if (tensor !== undefined && source !== undefined)
          return source.read(tensor.offset, tensor.bytes, signal);
        throw new LowbitError("weight-missing", `${files.name} has no tensor ${JSON.stringify(name)}.`, {
          reason: "missing-tensor",
        });
      },
      close: () => closeAll(sources),
    };
  } catch (error) {
    await closeAll(sources).catch(() => undefined);
    throw error;
  }
}

interface Resolved {
  readonly names: readonly string[];
  /** File of each tensor, where there is an index. */
  readonly index?: ReadonlyMap<string, string>;
}

async function resolve(files: FileSet, signal: AbortSignal | undefined): Promise<Resolved> {
  let { entry } = files;
  if (entry === undefined) {
    const found = (await files.list(signal)).filter((name) => /\.safetensors(\.index\.json)?$/.test(name));
    entry = ["model.safetensors", `model${indexSuffix}`].find((name) => found.includes(name));
    const shards = found.filter((name) => !name.endsWith(indexSuffix)).sort();
    if (entry === undefined && shards.length > 0) return { names: shards };
    if (entry === undefined) {
      throw new LowbitError("not-found", `${files.name} holds no safetensors file.`, {
        reason: "missing-file",
      });
    }
  }
  if (!entry.endsWith(indexSuffix)) return { names: [entry] };
  const index = await readIndex(files, entry, signal);
  return { names: [...new Set(index.values())], index };
}

/** The index's weight_map: file by tensor. File names must be plain: an index may not lead out of its folder. */
async function readIndex(
  files: FileSet,
  entry: string,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<string, string>> {
  const source = await files.open(entry, signal);
  try {
    if (source.size > maxIndexBytes) throw fail("limit-exceeded", `${source.name} has ${source.size} bytes`);
    const bytes = await source.read(0, source.size, signal);
    const root = parseJson(new TextDecoder().decode(bytes), source.name);
    const map = root instanceof Map ? root.get("weight_map") : undefined;
    if (!(map instanceof Map)) throw fail("invalid-json", `${source.name} has no object "weight_map"`);
    const index = new Map<string, string>();
    for (const [name, file] of map) {
      if (typeof file !== "string") throw fail("invalid-json", `${source.name}: ${name} has no file name`);
      if (!isPlainName(file)) {
        throw fail(
          "path-traversal",
          `${source.name} leads to ${JSON.stringify(file)}; only plain names are legal`,
        );
      }
      index.set(name, file);
    }
    return index;
  } finally {
    await source.close?.();
  }
}

function isPlainName(file: string): boolean {
  return file !== "" && file !== "." && file !== ".." && !/[/\\:\0]/.test(file);
}

async function openShard(files: FileSet, file: string, signal: AbortSignal | undefined): Promise<ByteSource> {
  try {
    return await files.open(file, signal);
  } catch (cause) {
    if (!LowbitError.is(cause) || cause.code !== "not-found" || file === files.entry) throw cause;
    throw fail("missing-shard", `${files.name}: the shard ${file} is not there`, cause);
  }
}

async function closeAll(sources: readonly ByteSource[]): Promise<void> {
  const results = await Promise.allSettled(sources.map(async (source) => source.close?.()));
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

function fail(reason: string, what: string, cause?: unknown): LowbitError {
  return new LowbitError("file-corrupt", `${what}.`, { reason, cause });
}
