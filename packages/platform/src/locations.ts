import { type FileSet, LowbitError } from "@lowbit/core";
import type { CacheStore } from "./cache-store.ts";
import { cached } from "./cached.ts";
import type { DownloadProgress } from "./download.ts";
import type { RemoteOptions } from "./http.ts";
import { type HubOptions, hubFiles } from "./hub.ts";
import { schemeOf } from "./names.ts";
import { manifestFiles, manifestName } from "./pieced-files.ts";
import { remoteFiles } from "./remote.ts";

/** Options of every platform about what comes over the network. */
export interface NetworkOptions extends RemoteOptions {
  /** Where the hub of `hf:` locations is, and who asks. */
  hub?: HubOptions;
  /** Keeps what `hf:` and `http(s):` locations hold. @default none: only the ranges that are needed are fetched, each time */
  cache?: CacheStore;
  /** Most bytes that the cache keeps. @default 32 GiB */
  maxCacheBytes?: number;
  /** Told while something is downloaded into the cache. */
  onDownload?: (progress: DownloadProgress) => void;
}

/** The files behind an `hf:` location or a URL of another scheme than `file:`. */
export function networkFiles(location: URL | string, options: NetworkOptions): FileSet {
  const scheme = schemeOf(String(location));
  const files =
    scheme === "hf" ? hubLocation(String(location), options) : urlFiles(new URL(location), options);
  const { cache, maxCacheBytes, onDownload } = options;
  if (cache === undefined || (scheme !== "hf" && scheme !== "http" && scheme !== "https")) return files;
  return cached(files, cache, {
    ...(maxCacheBytes !== undefined && { maxBytes: maxCacheBytes }),
    ...(onDownload && { onProgress: onDownload }),
  });
}

function hubLocation(location: string, { hub, ...options }: NetworkOptions): FileSet {
  return hubFiles(location, { ...options, ...hub });
}

function urlFiles(url: URL, options: NetworkOptions): FileSet {
  return url.pathname.endsWith(`/${manifestName}`) ? manifestFiles(url, options) : remoteFiles(url, options);
}

/** The store that `cache` means: true is the runtime's own. */
export function storeOf(
  cache: boolean | CacheStore | undefined,
  own: () => CacheStore,
): CacheStore | undefined {
  if (cache === undefined || cache === false) return undefined;
  if (cache === true) return own();
  if (typeof cache === "object" && typeof cache.put === "function") return cache;
  throw new LowbitError("bad-argument", `cache is a ${typeof cache}, expected true, false or a CacheStore.`, {
    reason: "cache",
  });
}
