import { type ByteSource, type FileSet, LowbitError, throwIfAborted } from "@lowbit/core";
import {
  type CacheRecord,
  type CacheStore,
  cacheEntries,
  entryId,
  type Piece,
  readPiece,
  readRecord,
  touch,
  type WholeRecord,
} from "./cache-store.ts";
import {
  beginPart,
  type CacheOptions,
  download,
  type Entry,
  isPinned,
  isSame,
  maxBytesOf,
  partPiece,
  storePiece,
} from "./download.ts";
import { isUnreachable } from "./http.ts";
import { piecedSource, pieceLength } from "./pieces.ts";
import { isStreamed } from "./remote.ts";

/**
 * So much of a larger file is fetched piece by piece, as it is read: enough for headers and vocabularies, so that a model can be
 * inspected, and refused, before it is downloaded. Weights come after the whole file has been verified.
 */
const peekBytes = 32 * 2 ** 20;

/** Without a connection, so long until the next try. */
const awayMs = 30_000;

/**
 * The same files, kept in a store once they are read. A file is downloaded by ranges, in pieces, an interrupted download goes on where
 * it was, and one whose size or version has changed starts anew. Before anything but the beginning of a large file is handed out, the
 * whole is held against the SHA-256 that the source states, if it does; and every piece is held against its own, each time that it is
 * read: what is damaged is fetched again. Without a connection, what is whole is read as it is.
 */
export function cached(files: FileSet, store: CacheStore, options: CacheOptions = {}): FileSet {
  const key = options.key ?? (files as KeyedFiles).key ?? files.name;
  // Formats open a file several times: not each of them waits again for somebody who is not there.
  let awayUntil = 0;
  const wholeIfAway = async (error: unknown, id: string): Promise<CacheRecord | undefined> => {
    if (!isUnreachable(error)) return undefined;
    awayUntil = Date.now() + awayMs;
    return readRecord(store, id, "json");
  };
  return {
    name: files.name,
    entry: files.entry,
    async list(signal) {
      try {
        return await files.list(signal);
      } catch (error) {
        if (!isUnreachable(error)) throw error;
        const names = await listStored(store, key);
        if (names.length === 0) throw error;
        return names;
      }
    },
    async open(file, signal) {
      throwIfAborted(signal);
      const entry: Entry = { id: await entryId(key, file), file, store, options };
      let origin: ByteSource | undefined;
      if (Date.now() < awayUntil) {
        const whole = await readRecord(store, entry.id, "json");
        if (whole !== undefined) return entrySource(entry, undefined, whole);
      }
      try {
        origin = await files.open(file, signal);
        awayUntil = 0;
      } catch (error) {
        const whole = await wholeIfAway(error, entry.id);
        if (whole === undefined) throw error;
        return entrySource(entry, undefined, whole);
      }
      try {
        if (origin.size > maxBytesOf(options)) return origin;
        return await openEntry(entry, origin, signal);
      } catch (error) {
        await origin.close?.();
        throw error;
      }
    },
  };
}

/** Files that know what tells their location from others. */
export interface KeyedFiles extends FileSet {
  readonly key?: string;
}

/** Whole files of a location. */
async function listStored(store: CacheStore, key: string): Promise<string[]> {
  const names: string[] = [];
  for (const { id, name, complete } of await cacheEntries(store)) {
    const file = name.slice(name.lastIndexOf("/") + 1);
    if (complete && (await entryId(key, file)) === id) names.push(file);
  }
  return names;
}

async function openEntry(
  entry: Entry,
  origin: ByteSource,
  signal: AbortSignal | undefined,
): Promise<ByteSource> {
  const { store, id } = entry;
  const found = await readRecord(store, id, "json");
  if (found !== undefined && isSame(found, origin)) {
    await touch(store, id);
    return entrySource(entry, origin, found);
  }
  if (origin.size <= peekBytes || isStreamed(origin) || !isPinned(origin)) {
    return entrySource(entry, origin, await download(entry, origin, signal));
  }
  return entrySource(entry, origin, await beginPart(entry, origin));
}

/** Reads an entry: a whole one, or one that is still to be downloaded and becomes whole when more than its beginning is read. */
function entrySource(entry: Entry, origin: ByteSource | undefined, first: CacheRecord): ByteSource {
  const { store: place, id } = entry;
  const isWhole = (record: CacheRecord): record is WholeRecord => record.pieces !== undefined;
  let record = first;
  /** What was handed out so far, which no later version may contradict. */
  const served = new Map<number, string>();
  let finishing: Promise<void> | undefined;

  const finish = (signal: AbortSignal | undefined): Promise<void> => {
    finishing ??= download(entry, origin as ByteSource, signal)
      .then((whole) => {
        const same = [...served].every(([index, digest]) => whole.pieces[index] === digest);
        if (!same || whole.pieceBytes !== first.pieceBytes) throw damaged();
        record = whole;
      })
      .finally(() => {
        finishing = undefined;
      });
    return finishing;
  };
  const damaged = (): LowbitError =>
    new LowbitError("file-corrupt", `${first.name}: what ${place.name} has of it is damaged.`, {
      reason: "cache-corrupt",
      hint:
        origin === undefined
          ? "Load it again with a connection to where it came from."
          : "Load the model again.",
    });
  const repair = async (
    whole: WholeRecord,
    index: number,
    signal: AbortSignal | undefined,
  ): Promise<Piece> => {
    if (origin === undefined) throw damaged();
    if (isStreamed(origin)) {
      await place.remove(`${id}.json`);
      await finish(signal);
      const piece = await readPiece(place, id, record, index);
      if (piece?.digest === (record as WholeRecord).pieces[index]) return piece as Piece;
      throw damaged();
    }
    const bytes = await origin.read(index * whole.pieceBytes, pieceLength(whole, index), signal);
    const piece = await storePiece(entry, whole, index, bytes);
    if (piece.digest === whole.pieces[index]) return piece;
    await place.remove(`${id}.json`);
    throw damaged();
  };
  const load = async (index: number, signal: AbortSignal | undefined): Promise<Uint8Array> => {
    if (!isWhole(record)) {
      const known = served.has(index) || (served.size + 1) * record.pieceBytes <= peekBytes;
      if (known && finishing === undefined) {
        const piece = await partPiece(entry, origin as ByteSource, record, index, signal);
        if ((served.get(index) ?? piece.digest) !== piece.digest) throw damaged();
        served.set(index, piece.digest);
        return piece.bytes;
      }
      await finish(signal);
    }
    const whole = record as WholeRecord;
    const stored = await readPiece(place, id, whole, index);
    const piece = stored?.digest === whole.pieces[index] ? stored : await repair(whole, index, signal);
    return (piece as Piece).bytes;
  };
  return piecedSource(first, load, entry.options.parallel ?? 4, async () => origin?.close?.());
}
