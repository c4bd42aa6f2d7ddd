// What every entry of this package offers beside its platform: sources and caches that need no runtime of their own.
export {
  type CacheEntry,
  type CacheStore,
  cacheEntries,
  removeFromCache,
  verifyCacheEntry,
} from "./cache-store.ts";
export { cached } from "./cached.ts";
export type { Hasher } from "./digest.ts";
export { type DirectoryReader, directoryFiles } from "./directory.ts";
export type { CacheOptions, DownloadProgress } from "./download.ts";
export type { RemoteOptions } from "./http.ts";
export { type HubOptions, hubFiles } from "./hub.ts";
export { type MemoryPreset, memoryPresets } from "./memory.ts";
export { opfsCache } from "./opfs-cache.ts";
export {
  type AssetFetcher,
  assetFiles,
  type KvReader,
  kvFiles,
  manifestFiles,
  manifestName,
  maxPieceBytes,
  type ObjectReader,
  piecedFiles,
  type WritePiecesOptions,
  writePieces,
} from "./pieced-files.ts";
export { type R2Head, type R2Reader, r2Files } from "./r2.ts";
export { remoteFiles } from "./remote.ts";
export { type WebCacheOptions, webCache } from "./web-cache.ts";
