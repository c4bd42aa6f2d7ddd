import { type ByteSource, type FileSet, LowbitError } from "@lowbit/core";
import { type GgufHeader, ggufError } from "./container.ts";
import { readGguf } from "./read.ts";

/** One opened file. */
export interface Shard {
  readonly source: ByteSource;
  readonly header: GgufHeader;
}

const shardName = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** The file of a split model that stands at `index`, counted from 0. */
export function splitFileName(prefix: string, index: number, count: number): string {
  return `${prefix}-${String(index + 1).padStart(5, "0")}-of-${String(count).padStart(5, "0")}.gguf`;
}

/**
 * Opens a file and, if it is part of a split model, all the others: any part may be named. The first shard comes first; it
 * holds the metadata. Throws `file-corrupt` (invalid-split, missing-shard, duplicate); nothing stays open then.
 */
export async function openShards(files: FileSet, entry: string, signal?: AbortSignal): Promise<Shard[]> {
  const match = shardName.exec(entry);
  const shards: Shard[] = [];
  try {
    if (match === null) {
      shards.push(await openShard(files, entry, signal));
      checkKeys(shards, 0, 1);
      return shards;
    }
    const [, prefix = "", , total = "1"] = match;
    const count = Number(total);
    for (let i = 0; i < Math.max(1, count); i++) {
      const name = splitFileName(prefix, i, count);
      shards.push(await openShard(files, name, signal));
      // A file may carry such a name without being split; then it says nothing of a split, or of a single part.
      if (i === 0 && (splitKey(shards[0], "split.count") ?? 1) <= 1) return shards;
      checkKeys(shards, i, count);
    }
    checkTotals(shards);
    return shards;
  } catch (error) {
    await closeShards(shards).catch(() => undefined);
    throw error;
  }
}

/** Closes every source, also where closing one of them fails; then the first failure is thrown. */
export async function closeShards(shards: readonly Shard[]): Promise<void> {
  const results = await Promise.allSettled(shards.map(async ({ source }) => source.close?.()));
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

async function openShard(files: FileSet, name: string, signal: AbortSignal | undefined): Promise<Shard> {
  let source: ByteSource;
  try {
    source = await files.open(name, signal);
  } catch (cause) {
    if (!LowbitError.is(cause) || cause.code !== "not-found" || name === files.entry) throw cause;
    throw ggufError("file-corrupt", "missing-shard", `${files.name}: the shard ${name} is not there.`, {
      cause,
      hint: "All parts of a split model must lie in one folder.",
    });
  }
  try {
    return { source, header: await readGguf(source, signal) };
  } catch (error) {
    // The reason for closing matters more than a failure to close.
    await source.close?.().catch(() => undefined);
    throw error;
  }
}

function splitKey(shard: Shard | undefined, key: string): number | undefined {
  const value = shard?.header.metadata.get(key)?.value;
  return typeof value === "number" ? value : undefined;
}

/** Each part must say that it is the part that its name says. */
function checkKeys(shards: readonly Shard[], index: number, count: number): void {
  const shard = shards[index];
  const no = splitKey(shard, "split.no") ?? 0;
  const stated = splitKey(shard, "split.count") ?? 1;
  // Merging leaves a count of 0 behind.
  if (no === index && (stated === count || (count === 1 && stated === 0))) return;
  throw ggufError(
    "file-corrupt",
    "invalid-split",
    `${shard?.source.name} calls itself part ${no + 1} of ${stated}, its name part ${index + 1} of ${count}.`,
    { hint: "Parts must keep the names they were written with: name-00001-of-00003.gguf." },
  );
}

function checkTotals(shards: readonly Shard[]): void {
  const names = new Set<string>();
  let total = 0;
  for (const { header, source } of shards) {
    for (const { name } of header.tensors) {
      if (names.has(name)) {
        throw ggufError(
          "file-corrupt",
          "duplicate",
          `${source.name}: tensor ${name} is in an earlier part, too.`,
        );
      }
      names.add(name);
      total++;
    }
  }
  const stated = splitKey(shards[0], "split.tensors.count");
  if (stated !== undefined && stated !== total) {
    throw ggufError(
      "file-corrupt",
      "invalid-split",
      `The parts hold ${total} tensors, but the first says ${stated}.`,
    );
  }
}
