import { LowbitError } from "@lowbit/core";
import { createHasher, digestOf, type Hasher, isSha256, toHex } from "./digest.ts";
import { pieceCount, pieceLength } from "./pieces.ts";

/**
 * Where downloads are kept: named objects of a few MiB. Six methods, so that any storage will do; everything else (pieces, hashes,
 * eviction) is above it.
 */
export interface CacheStore {
  /** For messages. */
  readonly name: string;
  /** Names of all objects; empty where the storage cannot tell, which then evicts by itself. */
  list(): Promise<readonly string[]>;
  get(object: string): Promise<Uint8Array | undefined>;
  /** All at once: nobody ever sees half an object. Throws `out-of-memory`/`storage-full`. */
  put(object: string, bytes: Uint8Array): Promise<void>;
  /** Nothing happens if there is none. */
  remove(object: string): Promise<void>;
  /** Runs `body` while nobody else, in other processes or tabs too, runs one for this name. */
  lock<T>(name: string, signal: AbortSignal | undefined, body: () => Promise<T>): Promise<T>;
  /** A faster hash than the portable one. */
  hasher?(): Hasher;
}

/** A download in the cache. */
export interface CacheEntry {
  readonly id: string;
  /** Where it came from. */
  readonly name: string;
  readonly size: number;
  /** Bytes that are there. */
  readonly storedBytes: number;
  /** All bytes are there and were verified. */
  readonly complete: boolean;
  /** Of all bytes: as stated by the source, else as computed when it was downloaded; undefined while it is not complete. */
  readonly sha256: string | undefined;
  /** Milliseconds since 1970. */
  readonly usedAt: number;
}

/**
 * What is known of one file, as JSON beside its pieces. `<id>.json`: a whole file; `<id>.part`: one that is being downloaded.
 * Pieces are called `<id>.<generation>.<index>`: those of another version of the file have another generation, so they never mix.
 */
export interface CacheRecord {
  readonly format: 1;
  readonly name: string;
  readonly size: number;
  readonly pieceBytes: number;
  readonly generation: string;
  readonly version?: string;
  /** As the source states it. */
  readonly sha256?: string;
  /** SHA-256 of each piece, and of all bytes: of a whole file only. */
  readonly pieces?: readonly string[];
  readonly digest?: string;
}

export type WholeRecord = CacheRecord & { readonly pieces: readonly string[]; readonly digest: string };

/** Bytes after a piece's own: its SHA-256, so that it can be checked before the whole file is there. */
const trailerBytes = 32;

/** The same for the same file of the same location, whatever its version. */
export async function entryId(key: string, file: string): Promise<string> {
  return (await digestOf(new TextEncoder().encode(`${key}\n${file}`))).slice(0, 32);
}

export function newGeneration(): string {
  return toHex(crypto.getRandomValues(new Uint8Array(6)));
}

/** The record, or undefined where there is none that makes sense. */
export async function readRecord(
  store: CacheStore,
  id: string,
  kind: "json" | "part",
): Promise<CacheRecord | undefined> {
  const bytes = await store.get(`${id}.${kind}`);
  if (bytes === undefined) return undefined;
  try {
    const record = JSON.parse(new TextDecoder().decode(bytes)) as CacheRecord;
    const { size, pieceBytes, generation, pieces, digest } = record;
    const valid =
      record.format === 1 &&
      typeof record.name === "string" &&
      Number.isSafeInteger(size) &&
      size >= 0 &&
      Number.isSafeInteger(pieceBytes) &&
      pieceBytes > 0 &&
      /^[0-9a-f]{12}$/.test(generation) &&
      (kind === "part" ||
        (isSha256(digest) && pieces?.length === pieceCount(record) && pieces.every(isSha256)));
    return valid ? record : undefined;
  } catch {
    return undefined;
  }
}

export function writeRecord(
  store: CacheStore,
  id: string,
  kind: "json" | "part",
  record: CacheRecord,
): Promise<void> {
  return store.put(`${id}.${kind}`, new TextEncoder().encode(JSON.stringify(record)));
}

export async function touch(store: CacheStore, id: string): Promise<void> {
  await store.put(`${id}.used`, new TextEncoder().encode(String(Date.now())));
}

export interface Piece {
  readonly bytes: Uint8Array;
  readonly digest: string;
}

/** A stored piece whose bytes are as they were put there. */
export async function readPiece(
  store: CacheStore,
  id: string,
  record: CacheRecord,
  index: number,
): Promise<Piece | undefined> {
  const stored = await store.get(pieceObject(id, record.generation, index));
  const length = pieceLength(record, index);
  if (stored?.length !== length + trailerBytes) return undefined;
  const bytes = stored.subarray(0, length);
  const digest = await digestOf(bytes);
  return digest === toHex(stored.subarray(length)) ? { bytes, digest } : undefined;
}

export async function writePiece(
  store: CacheStore,
  id: string,
  record: CacheRecord,
  index: number,
  bytes: Uint8Array,
): Promise<Piece> {
  const digest = await digestOf(bytes);
  const stored = new Uint8Array(bytes.length + trailerBytes);
  stored.set(bytes);
  stored.set(fromHex(digest), bytes.length);
  await store.put(pieceObject(id, record.generation, index), stored);
  return { bytes, digest };
}

/** Removes the pieces of one generation. */
export async function removePieces(store: CacheStore, id: string, record: CacheRecord): Promise<void> {
  for (let index = 0; index < pieceCount(record); index++) {
    await store.remove(pieceObject(id, record.generation, index));
  }
}

/** Everything in the cache, last used first. */
export async function cacheEntries(store: CacheStore): Promise<CacheEntry[]> {
  const counts = new Map<string, number>();
  const records = new Set<string>();
  for (const object of await store.list()) {
    const [, id, generation] = /^([0-9a-f]{32})\.(?:json|part|([0-9a-f]{12})\.\d+)$/.exec(object) ?? [];
    if (id === undefined) continue;
    if (generation === undefined) records.add(id);
    else counts.set(`${id}.${generation}`, (counts.get(`${id}.${generation}`) ?? 0) + 1);
  }
  const entries: CacheEntry[] = [];
  for (const id of records) {
    const whole = await readRecord(store, id, "json");
    const part = await readRecord(store, id, "part");
    const record = whole ?? part;
    if (record === undefined) continue;
    const storedBytes = [whole, part].reduce(
      (total, one) =>
        one === undefined
          ? total
          : total + Math.min(one.size, one.pieceBytes * (counts.get(`${id}.${one.generation}`) ?? 0)),
      0,
    );
    const usedAt = Number(new TextDecoder().decode((await store.get(`${id}.used`)) ?? new Uint8Array(0)));
    entries.push({
      id,
      name: record.name,
      size: record.size,
      storedBytes,
      complete: whole !== undefined,
      sha256: whole?.digest,
      usedAt: Number.isFinite(usedAt) ? usedAt : 0,
    });
  }
  return entries.sort((a, b) => b.usedAt - a.usedAt);
}

/** Removes an entry; with none given, everything, remnants included. */
export async function removeFromCache(store: CacheStore, id?: string): Promise<void> {
  for (const object of await store.list()) {
    if (id === undefined || object.startsWith(`${id}.`)) await store.remove(object);
  }
}

/** Reads a whole entry again: false where a byte of it is not what was downloaded, or is missing. Throws `not-found`. */
export async function verifyCacheEntry(
  store: CacheStore,
  id: string,
  signal?: AbortSignal,
): Promise<boolean> {
  const record = await readRecord(store, id, "json");
  if (record === undefined) {
    throw new LowbitError("not-found", `${store.name} has no whole file ${id}.`, { reason: "missing-file" });
  }
  const { pieces, digest } = record as WholeRecord;
  const hasher = store.hasher?.() ?? createHasher();
  for (const [index, expected] of pieces.entries()) {
    signal?.throwIfAborted();
    const piece = await readPiece(store, id, record, index);
    if (piece?.digest !== expected) return false;
    hasher.update(piece.bytes);
  }
  return hasher.hex() === digest;
}

/** Removes what was used least recently until `room` more bytes fit below `maxBytes`, and pieces that belong to nothing. */
export async function evict(store: CacheStore, maxBytes: number, room: number, keep: string): Promise<void> {
  const entries = await cacheEntries(store);
  let total = room + entries.reduce((sum, { id, storedBytes }) => sum + (id === keep ? 0 : storedBytes), 0);
  for (const { id, storedBytes } of entries.reverse()) {
    if (total <= maxBytes) break;
    if (id === keep) continue;
    await removeFromCache(store, id);
    total -= storedBytes;
  }
  const objects = await store.list();
  const recorded = new Set(
    objects.flatMap((object) => /^([0-9a-f]{32})\.(?:json|part)$/.exec(object)?.[1] ?? []),
  );
  for (const object of objects) {
    const id = /^([0-9a-f]{32})\./.exec(object)?.[1];
    // A record is written before its first piece.
    if (id !== undefined && id !== keep && !recorded.has(id)) await store.remove(object);
  }
}

/** Removes the least recently used entry but `keep`; false if there is none. */
export async function evictOne(store: CacheStore, keep: string): Promise<boolean> {
  const last = (await cacheEntries(store)).filter(({ id }) => id !== keep).at(-1);
  if (last === undefined) return false;
  await removeFromCache(store, last.id);
  return true;
}

function pieceObject(id: string, generation: string, index: number): string {
  return `${id}.${generation}.${index}`;
}

function fromHex(text: string): Uint8Array {
  return Uint8Array.from({ length: text.length / 2 }, (_, i) =>
    Number.parseInt(text.slice(2 * i, 2 * i + 2), 16),
  );
}
