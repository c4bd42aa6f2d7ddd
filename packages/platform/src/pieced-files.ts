import { type FileSet, type JsonValue, LowbitError, parseJson, type WritableFolder } from "@lowbit/core";
import { createHasher, digestOf, isSha256 } from "./digest.ts";
import { displayUrl, fetchSmall, type RemoteOptions, type Settings, settingsOf } from "./http.ts";
import { checkFileName } from "./names.ts";
import { type PiecedFile, pieceCount, piecedSource, pieceLength } from "./pieces.ts";

/** The list of a folder whose files lie in pieces. */
export const manifestName = "lowbit-files.json";
/** Workers static assets and KV values end here. */
export const maxPieceBytes: number = 25 * 2 ** 20;
const maxManifestBytes = 2 ** 24;

/** Gets an object of at most `limit` bytes; undefined if there is none. */
export type ObjectReader = (
  name: string,
  limit: number,
  signal?: AbortSignal,
) => Promise<Uint8Array | undefined>;

interface ManifestFile extends PiecedFile {
  readonly sha256: string;
  /** SHA-256 of each piece. */
  readonly pieces: readonly string[];
}

/**
 * Files in pieces, listed in a manifest as `writePieces` makes it. A piece is held against its SHA-256 before anything of it is
 * used; one that does not match is got once more.
 */
export function piecedFiles(name: string, read: ObjectReader): FileSet {
  let manifest: Promise<ReadonlyMap<string, ManifestFile>> | undefined;
  const listed = (signal: AbortSignal | undefined): Promise<ReadonlyMap<string, ManifestFile>> => {
    if (manifest === undefined) {
      manifest = readManifest(name, read, signal);
      manifest.catch(() => {
        manifest = undefined;
      });
    }
    return manifest;
  };
  return {
    name,
    entry: undefined,
    list: async (signal) => [...(await listed(signal)).keys()],
    async open(file, signal) {
      checkFileName(file, name);
      const found = (await listed(signal)).get(file);
      if (found === undefined) throw missing(name, file);
      const load = async (index: number, readSignal: AbortSignal | undefined): Promise<Uint8Array> => {
        const object = pieceName(file, index);
        const length = pieceLength(found, index);
        for (let attempt = 1; ; attempt++) {
          const bytes = await read(object, length, readSignal);
          if (bytes === undefined) throw missing(name, object);
          if (bytes.length === length && (await digestOf(bytes)) === found.pieces[index]) return bytes;
          if (attempt === 2) throw damaged(name, object);
        }
      };
      return piecedSource({ ...found, name: `${name}${name.endsWith("/") ? "" : "/"}${file}` }, load, 2);
    },
  };
}

/** The folder whose manifest, `lowbit-files.json`, has this URL. */
export function manifestFiles(url: URL, options: RemoteOptions = {}): FileSet {
  const settings = settingsOf(options);
  return piecedFiles(displayUrl(new URL("./", url)), (object, limit, signal) => {
    const place = new URL(url);
    place.pathname = url.pathname.slice(0, url.pathname.lastIndexOf("/") + 1) + encodeURIComponent(object);
    return fetchObject(place, limit, settings, signal);
  });
}

/** What of a Workers KV namespace is used. */
export interface KvReader {
  get(key: string, type: "arrayBuffer"): Promise<ArrayBuffer | null>;
}

/** A folder of pieces in Workers KV: keys are `prefix` and the object's name. */
export function kvFiles(namespace: KvReader, prefix = ""): FileSet {
  return piecedFiles(`kv:${prefix}`, async (object) => {
    const value = await namespace.get(prefix + object, "arrayBuffer");
    return value === null ? undefined : new Uint8Array(value);
  });
}

/** What of a binding to Workers static assets is used. */
export interface AssetFetcher {
  fetch(input: string, init?: RequestInit): Promise<Response>;
}

/** A folder of pieces among a Worker's static assets, e.g. `assetFiles(env.ASSETS, "/models/pico/")`. */
export function assetFiles(assets: AssetFetcher, prefix = "/", options: RemoteOptions = {}): FileSet {
  const settings = settingsOf({
    ...options,
    fetch: (input, init) => assets.fetch(String(input instanceof Request ? input.url : input), init),
  });
  const base = new URL(prefix.endsWith("/") ? prefix : `${prefix}/`, "https://assets.invalid");
  return piecedFiles(`assets:${base.pathname}`, (object, limit, signal) =>
    fetchObject(new URL(encodeURIComponent(object), base), limit, settings, signal),
  );
}

export interface WritePiecesOptions {
  /** At most 25 MiB; a reader holds two of them. @default 8 MiB */
  pieceBytes?: number;
  /** Which files. @default all */
  files?: readonly string[];
  signal?: AbortSignal;
}

/** Writes files in pieces and their manifest, for hosts that limit the size of one file. The manifest comes last. */
export async function writePieces(
  source: FileSet,
  target: Pick<WritableFolder, "create">,
  options: WritePiecesOptions = {},
): Promise<void> {
  const { pieceBytes = 8 * 2 ** 20, signal } = options;
  if (!Number.isInteger(pieceBytes) || pieceBytes < 1 || pieceBytes > maxPieceBytes) {
    throw new LowbitError("bad-argument", `pieceBytes is ${pieceBytes}, expected 1 to ${maxPieceBytes}.`, {
      reason: "piece-bytes",
    });
  }
  const files: Record<string, { size: number; sha256: string; pieces: string[] }> = {};
  const names =
    options.files ?? (source.entry === undefined ? await source.list(signal) : await parts(source, signal));
  for (const name of names) {
    const opened = await source.open(name, signal);
    try {
      const hasher = createHasher();
      const pieces: string[] = [];
      const file = { name, size: opened.size, pieceBytes };
      for (let index = 0; index < pieceCount(file); index++) {
        const bytes = await opened.read(index * pieceBytes, pieceLength(file, index), signal);
        hasher.update(bytes);
        pieces.push(await digestOf(bytes));
        await writeObject(target, pieceName(name, index), bytes);
      }
      files[name] = { size: opened.size, sha256: hasher.hex(), pieces };
    } finally {
      await opened.close?.();
    }
  }
  const text = JSON.stringify({ lowbit: "files", version: 1, pieceBytes, files }, undefined, 1);
  await writeObject(target, manifestName, new TextEncoder().encode(`${text}\n`));
}

/** The file that a location names and, of a split model, its siblings. */
async function parts({ entry = "", list }: FileSet, signal?: AbortSignal): Promise<readonly string[]> {
  const split = /-\d{5}(-of-\d{5}\.gguf)$/.exec(entry);
  if (split === null) return [entry];
  const stem = entry.slice(0, split.index);
  const names = await list(signal);
  return names.filter((name) => name.startsWith(stem) && name.endsWith(split[1] as string));
}

async function writeObject(
  target: Pick<WritableFolder, "create">,
  name: string,
  bytes: Uint8Array,
): Promise<void> {
  const sink = await target.create(name);
  try {
    await sink.write(bytes);
  } finally {
    await sink.close();
  }
}

function pieceName(file: string, index: number): string {
  return `${file}.${String(index).padStart(4, "0")}`;
}

async function fetchObject(
  url: URL,
  limit: number,
  settings: Settings,
  signal?: AbortSignal,
): Promise<Uint8Array | undefined> {
  try {
    return (await fetchSmall({ url, name: displayUrl(url) }, limit, settings, signal)).bytes;
  } catch (error) {
    if (LowbitError.is(error) && error.reason === "http-404") return undefined;
    throw error;
  }
}

async function readManifest(
  name: string,
  read: ObjectReader,
  signal: AbortSignal | undefined,
): Promise<ReadonlyMap<string, ManifestFile>> {
  const bytes = await read(manifestName, maxManifestBytes, signal);
  if (bytes === undefined) {
    throw new LowbitError("not-found", `${name} has no ${manifestName}.`, {
      reason: "missing-file",
      hint: "Files in pieces are written by writePieces().",
    });
  }
  const json = parseJson(new TextDecoder().decode(bytes), `${name} ${manifestName}`);
  const pieceBytes = field(json, "pieceBytes");
  const files = field(json, "files");
  if (field(json, "lowbit") !== "files" || field(json, "version") !== 1 || !(files instanceof Map)) {
    throw invalid(name, "it is of another kind or version");
  }
  if (!isCount(pieceBytes) || pieceBytes < 1 || pieceBytes > maxPieceBytes) throw invalid(name, "pieceBytes");
  const result = new Map<string, ManifestFile>();
  for (const [file, entry] of files as ReadonlyMap<string, JsonValue>) {
    checkFileName(file, name);
    const [size, sha256, pieces] = ["size", "sha256", "pieces"].map((key) => field(entry, key));
    if (!isCount(size) || !isSha256(sha256) || !Array.isArray(pieces) || !pieces.every(isSha256))
      throw invalid(name, `the entry of ${JSON.stringify(file)}`);
    const found = { name: file, size, pieceBytes, sha256, version: sha256, pieces };
    if (pieces.length !== pieceCount(found)) throw invalid(name, `the pieces of ${JSON.stringify(file)}`);
    result.set(file, found);
  }
  return result;
}

function field(value: JsonValue | undefined, name: string): JsonValue | undefined {
  return value instanceof Map ? (value as ReadonlyMap<string, JsonValue>).get(name) : undefined;
}

function isCount(value: JsonValue | undefined): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function missing(name: string, file: string): LowbitError {
  return new LowbitError("not-found", `${name} has no ${JSON.stringify(file)}.`, { reason: "missing-file" });
}

function damaged(name: string, object: string): LowbitError {
  return new LowbitError("file-corrupt", `${name}: ${object} is not what the manifest says.`, {
    reason: "sha256",
    hint: "Write the pieces and their manifest anew, all of them.",
  });
}

function invalid(name: string, what: string): LowbitError {
  return new LowbitError("file-corrupt", `${name}: ${manifestName} is not valid: ${what}.`, {
    reason: "manifest",
  });
}
