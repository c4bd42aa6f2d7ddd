import { type ByteSource, type JsonValue, LowbitError, parseJson } from "@lowbit/core";
import type { KeyedFiles } from "./cached.ts";
import { isSha256 } from "./digest.ts";
import { changed, fetchSmall, type RemoteOptions, type Settings, settingsOf, type Target } from "./http.ts";
import { checkFileName } from "./names.ts";
import { openTarget } from "./remote.ts";

export interface HubOptions {
  /** @default on Node, HF_ENDPOINT; else https://huggingface.co */
  endpoint?: string;
  /** For private and gated repositories. @default on Node, HF_TOKEN */
  token?: string;
}

/** `hf:org/repo[@revision][/path]`, taken apart. */
export interface HubLocation {
  readonly repository: string;
  readonly revision: string;
  /** Folder within the repository, "" or ending in a slash. */
  readonly folder: string;
  readonly entry: string | undefined;
}

interface HubFile {
  readonly size: number;
  /** The hub's name for these bytes: a hash of git's. */
  readonly version: string;
  /** For files in large-file storage. */
  readonly sha256: string | undefined;
}

interface Snapshot {
  readonly commit: string;
  readonly files: ReadonlyMap<string, HubFile>;
}

const maxAnswerBytes = 2 ** 24;
const maxPages = 64;

/**
 * A file or a folder of a model repository, by the hub's own HTTP interface: two requests list the folder at the commit that the
 * revision means at that time, and files are read by ranges. A last part with a dot is a file, unless a slash follows.
 *
 * The hub's JavaScript client is not needed for this: it would bring 280 kB and a WebAssembly module of its own, and reads through
 * Blobs that tell no hash.
 */
export function hubFiles(location: string, options: HubOptions & RemoteOptions = {}): KeyedFiles {
  const { repository, revision, folder, entry } = parseHubLocation(location);
  const settings = settingsOf(options);
  const base = endpointOf(options.endpoint ?? "https://huggingface.co");
  const headers: Record<string, string> =
    options.token === undefined ? {} : { authorization: `Bearer ${options.token}` };
  const place = `hf:${repository}${revision === "main" ? "" : `@${revision}`}/${folder}`;
  const name = entry === undefined ? place.slice(0, -1) : place + entry;
  const target = (path: string): Target => ({ url: new URL(base + path), name, headers });
  let snapshot: Promise<Snapshot> | undefined;
  const listed = (signal: AbortSignal | undefined): Promise<Snapshot> => {
    if (snapshot === undefined) {
      snapshot = readSnapshot(target, { repository, revision, folder, entry }, name, settings, signal);
      // A failed or aborted request must not fail the next one.
      snapshot.catch(() => {
        snapshot = undefined;
      });
    }
    return snapshot;
  };
  return {
    name,
    key: `hf:${base}${repository}@${revision}/${folder}`,
    entry,
    async list(signal) {
      return [...(await listed(signal)).files.keys()];
    },
    async open(file, signal): Promise<ByteSource> {
      checkFileName(file, name);
      const { commit, files } = await listed(signal);
      const known = files.get(file);
      if (known === undefined) {
        throw new LowbitError("not-found", `${name}: there is no file ${JSON.stringify(file)}.`, {
          reason: "missing-file",
          hint: `${files.size} files are there${files.size === 0 ? "" : `: ${[...files.keys()].slice(0, 8).join(", ")}`}${files.size > 8 ? " …" : ""}.`,
        });
      }
      const { size, version, sha256 } = known;
      const path = `${repository}/resolve/${commit}/${encodePath(folder + file)}`;
      const source = await openTarget({ ...target(path), name: place + file }, settings, signal);
      if (source.size !== size) {
        await source.close?.();
        throw changed(source.name);
      }
      // Once redirected, the storage's own ETag guards single reads; across loads the hub's name does.
      return Object.assign(source, { version, ...(sha256 !== undefined && { sha256 }) });
    },
  };
}

/** Throws `bad-argument`/`location`. */
export function parseHubLocation(location: string): HubLocation {
  const match = /^hf:(?:\/\/)?([\w.-]+\/[\w.-]+)(?:@([^/@]+))?(?:\/(.*))?$/.exec(location);
  const path = decode(match?.[3] ?? "");
  const parts = path.split("/");
  const last = parts.at(-1) as string;
  const revision = decode(match?.[2] ?? "main");
  const plain = (part: string): boolean => part !== "." && part !== ".." && part !== "";
  const whole = last === "" ? parts.slice(0, -1) : parts;
  if (!match?.[1]?.split("/").every(plain) || !whole.every(plain) || /[\\?#]/.test(path)) {
    throw new LowbitError(
      "bad-argument",
      `${JSON.stringify(location.slice(0, 200))} is no location on the hub.`,
      {
        reason: "location",
        hint: "Write hf:org/repository, hf:org/repository@revision or hf:org/repository/file.gguf.",
      },
    );
  }
  const isFile = last.includes(".");
  const folders = isFile ? parts.slice(0, -1) : whole;
  return {
    repository: match[1],
    revision,
    folder: folders.map((part) => `${part}/`).join(""),
    entry: isFile ? last : undefined,
  };
}

async function readSnapshot(
  target: (path: string) => Target,
  { repository, revision, folder }: HubLocation,
  name: string,
  settings: Settings,
  signal: AbortSignal | undefined,
): Promise<Snapshot> {
  const api = `api/models/${repository}`;
  const info = await getJson(
    target(`${api}/revision/${encodeURIComponent(revision)}`),
    name,
    settings,
    signal,
  );
  const commit = field(info.value, "sha");
  if (typeof commit !== "string" || !/^[0-9a-f]{40}$/.test(commit)) throw unexpected(name, "no commit");
  const files = new Map<string, HubFile>();
  let page: Target | undefined = target(
    `${api}/tree/${commit}${folder === "" ? "" : `/${encodePath(folder.slice(0, -1))}`}`,
  );
  for (let pages = 0; page !== undefined; pages++) {
    if (pages === maxPages) throw unexpected(name, "a folder of too many files");
    const { value, response } = await getJson(page, name, settings, signal);
    if (!Array.isArray(value)) throw unexpected(name, "no list of files");
    for (const item of value) {
      const path = field(item, "path");
      if (field(item, "type") !== "file" || typeof path !== "string" || !path.startsWith(folder)) continue;
      files.set(path.slice(folder.length), hubFile(item, name));
    }
    page = nextPage(response, page);
  }
  return { commit, files };
}

function hubFile(item: JsonValue, name: string): HubFile {
  const lfs = field(item, "lfs");
  const size = lfs === undefined ? field(item, "size") : field(lfs, "size");
  const oid = field(item, "oid");
  const sha256 = lfs === undefined ? undefined : field(lfs, "oid");
  if (!Number.isSafeInteger(size) || (size as number) < 0 || typeof oid !== "string") {
    throw unexpected(name, "a file without size or hash");
  }
  if (sha256 !== undefined && !isSha256(sha256)) throw unexpected(name, "a hash that is none");
  return { size: size as number, version: oid, sha256 };
}

/** The next page's address, which must be the hub's own: the token goes along. */
function nextPage(response: Response, page: Target): Target | undefined {
  const link = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get("link") ?? "")?.[1];
  if (link === undefined) return undefined;
  const url = new URL(link, page.url);
  if (url.origin !== page.url.origin) throw unexpected(page.name, "a next page elsewhere");
  return { ...page, url, direct: undefined };
}

async function getJson(
  target: Target,
  name: string,
  settings: Settings,
  signal: AbortSignal | undefined,
): Promise<{ value: JsonValue; response: Response }> {
  const { bytes, response } = await fetchSmall(target, maxAnswerBytes, settings, signal).catch(
    (error: unknown) => {
      throw LowbitError.is(error) ? explained(error, name) : error;
    },
  );
  return { value: parseJson(new TextDecoder().decode(bytes), name), response };
}

/** The hub answers 401 for repositories that do not exist, so as to tell nobody which do. */
function explained(error: LowbitError, name: string): LowbitError {
  if (!/^http-40[134]$/.test(error.reason ?? "")) return error;
  return new LowbitError("not-found", `${name}: there is no such repository, revision or folder to see.`, {
    reason: error.reason as string,
    hint: "Check the name; private and gated repositories need a token (HF_TOKEN).",
    cause: error,
  });
}

function unexpected(name: string, what: string): LowbitError {
  return new LowbitError("file-corrupt", `${name}: the hub answered with ${what}.`, { reason: "hub-answer" });
}

function field(value: JsonValue | undefined, name: string): JsonValue | undefined {
  return value instanceof Map ? (value as ReadonlyMap<string, JsonValue>).get(name) : undefined;
}

function endpointOf(text: string): string {
  let url: URL | undefined;
  try {
    url = new URL(text);
  } catch {
    // Told below.
  }
  if (url === undefined || !/^https?:$/.test(url.protocol)) {
    throw new LowbitError("bad-argument", `${JSON.stringify(text)} is no hub's address.`, {
      reason: "endpoint",
      hint: "Give an http(s) URL.",
    });
  }
  return `${url.origin}${url.pathname.replace(/\/*$/, "/")}`;
}

function encodePath(path: string): string {
  return path.split("/").map(encodeURIComponent).join("/");
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
