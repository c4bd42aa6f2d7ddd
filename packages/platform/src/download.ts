import { type ByteSource, LowbitError, throwIfAborted } from "@lowbit/core";
import {
  type CacheRecord,
  type CacheStore,
  evict,
  evictOne,
  newGeneration,
  type Piece,
  readPiece,
  readRecord,
  removePieces,
  touch,
  type WholeRecord,
  writePiece,
  writeRecord,
} from "./cache-store.ts";
import { createHasher } from "./digest.ts";
import { pieceCount, pieceLength } from "./pieces.ts";
import { isStreamed, type StreamedSource } from "./remote.ts";

export interface DownloadProgress {
  readonly file: string;
  /** Bytes that the cache has, those of an earlier, interrupted download included. */
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface CacheOptions {
  /** What the location is called in the cache. @default the file set's own key or name */
  key?: string;
  /** Most bytes that the cache keeps; what was used least recently goes first, and a larger file is not cached. @default 32 GiB */
  maxBytes?: number;
  /** Pieces that are fetched at the same time. @default 4 */
  parallel?: number;
  onProgress?: (progress: DownloadProgress) => void;
}

/** Of one object in the store, and of one request to the source. */
const pieceBytes = 4 * 2 ** 20;
/** One file of one location in one store. */
export interface Entry {
  readonly id: string;
  readonly file: string;
  readonly store: CacheStore;
  readonly options: CacheOptions;
}

export function maxBytesOf({ maxBytes }: CacheOptions): number {
  return maxBytes ?? 32 * 2 ** 30;
}

/** The stated hash decides where both have one, else the version, else the size. */
export function isSame(record: CacheRecord, source: ByteSource): boolean {
  if (record.size !== source.size) return false;
  if (record.sha256 !== undefined && source.sha256 !== undefined) return record.sha256 === source.sha256;
  return record.version === source.version;
}

/** Does the source say which bytes it has, so that parts read at different times are of one file? A weak version does not. */
export function isPinned({ sha256, version }: ByteSource): boolean {
  return sha256 !== undefined || (version !== undefined && !version.startsWith("W/"));
}

/** The record to go on with: an earlier one if it is of the same bytes. */
export async function beginPart({ store, id, options }: Entry, source: ByteSource): Promise<CacheRecord> {
  const before = await readRecord(store, id, "part");
  if (before !== undefined && isPinned(source) && isSame(before, source)) return before;
  const { name, size, version, sha256 } = source;
  const record: CacheRecord = {
    format: 1,
    name,
    size,
    pieceBytes,
    generation: newGeneration(),
    ...(version !== undefined && { version }),
    ...(sha256 !== undefined && { sha256 }),
  };
  await evict(store, maxBytesOf(options), size, id);
  await touch(store, id);
  await writeRecord(store, id, "part", record);
  if (before !== undefined) await removePieces(store, id, before);
  return record;
}

/** Everything that is not there yet, verified; one caller at a time. */
export function download(
  entry: Entry,
  source: ByteSource,
  signal: AbortSignal | undefined,
): Promise<WholeRecord> {
  const { store, id, file } = entry;
  return store.lock(id, signal, async () => {
    for (let attempt = 1; ; attempt++) {
      // Another process may have finished it meanwhile.
      const found = await readRecord(store, id, "json");
      if (found !== undefined && attempt === 1 && isSame(found, source)) return found as WholeRecord;
      const part = await beginPart(entry, source);
      const hasher = store.hasher?.() ?? createHasher();
      const pieces: string[] = [];
      let doneBytes = 0;
      for await (const piece of piecesInOrder(entry, source, part, signal)) {
        hasher.update(piece.bytes);
        pieces.push(piece.digest);
        doneBytes += piece.bytes.length;
        entry.options.onProgress?.({ file, doneBytes, totalBytes: part.size });
      }
      const digest = hasher.hex();
      if (part.sha256 === undefined || part.sha256 === digest) {
        const whole = { ...part, pieces, digest };
        await writeRecord(store, id, "json", whole);
        await store.remove(`${id}.part`);
        if (found !== undefined && found.generation !== part.generation) await removePieces(store, id, found);
        return whole;
      }
      await store.remove(`${id}.part`);
      await removePieces(store, id, part);
      if (attempt === 2) {
        throw new LowbitError(
          "file-corrupt",
          `${source.name}: the bytes that came have the SHA-256 ${digest}, but should have ${part.sha256}.`,
          {
            reason: "sha256",
            hint: "Something between here and the server changes them; nothing was kept.",
          },
        );
      }
    }
  });
}

/** All pieces, those that come next already on their way. */
async function* piecesInOrder(
  entry: Entry,
  source: ByteSource,
  part: CacheRecord,
  signal: AbortSignal | undefined,
): AsyncGenerator<Piece, void> {
  if (isStreamed(source)) {
    let index = 0;
    for await (const bytes of cut(source, part.pieceBytes, signal))
      yield storePiece(entry, part, index++, bytes);
    return;
  }
  const count = pieceCount(part);
  const parallel = entry.options.parallel ?? 4;
  const control = new AbortController();
  const stop = (): void => control.abort(signal?.reason);
  if (signal?.aborted) stop();
  signal?.addEventListener("abort", stop);
  const running: Promise<Piece>[] = [];
  try {
    for (let next = 0, yielded = 0; yielded < count; yielded++) {
      while (next < count && next < yielded + parallel) {
        const piece = partPiece(entry, source, part, next++, control.signal);
        // Awaited in order: a later one's failure must not be unhandled until then.
        piece.catch(() => undefined);
        running.push(piece);
      }
      yield await (running.shift() as Promise<Piece>);
    }
  } finally {
    signal?.removeEventListener("abort", stop);
    control.abort();
    await Promise.allSettled(running);
  }
}

/** A stored piece, else a fetched one. */
export async function partPiece(
  entry: Entry,
  source: ByteSource,
  part: CacheRecord,
  index: number,
  signal: AbortSignal | undefined,
): Promise<Piece> {
  const stored = await readPiece(entry.store, entry.id, part, index);
  if (stored !== undefined) return stored;
  throwIfAborted(signal);
  const bytes = await source.read(index * part.pieceBytes, pieceLength(part, index), signal);
  return storePiece(entry, part, index, bytes);
}

/** Storages have limits of their own: what was used least recently makes room. */
export async function storePiece(
  { store, id }: Entry,
  record: CacheRecord,
  index: number,
  bytes: Uint8Array,
): Promise<Piece> {
  for (;;) {
    try {
      return await writePiece(store, id, record, index, bytes);
    } catch (error) {
      const full = LowbitError.is(error) && error.reason === "storage-full";
      if (!full || !(await evictOne(store, id))) throw error;
    }
  }
}

/** The stream in pieces of one size. */
async function* cut(
  source: StreamedSource,
  length: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void> {
  let piece = new Uint8Array(Math.min(length, source.size));
  let filled = 0;
  let left = source.size;
  for await (let chunk of source.stream(signal)) {
    while (chunk.length > 0) {
      const taken = chunk.subarray(0, piece.length - filled);
      piece.set(taken, filled);
      filled += taken.length;
      chunk = chunk.subarray(taken.length);
      if (filled < piece.length) continue;
      left -= filled;
      yield piece;
      piece = new Uint8Array(Math.min(length, left));
      filled = 0;
    }
  }
}
