import type { CacheStore } from "./cache-store.ts";
import { isNamed, storageFull, unavailable } from "./opfs-cache.ts";
import { webLock } from "./web-lock.ts";

interface WebCache {
  match(url: string): Promise<Response | undefined>;
  put(url: string, response: Response): Promise<void>;
  delete(url: string): Promise<boolean>;
  /** Workers have none. */
  keys?(): Promise<readonly { readonly url: string }[]>;
}

export interface WebCacheOptions {
  /** @default "lowbit" */
  name?: string;
  /** Objects are kept below this URL, which is never fetched; in Workers, use one of the zone's own. @default "https://cache.lowbit.invalid/" */
  base?: string;
}

/** A cache in the Cache API of browsers and Workers. Workers clear theirs by themselves, and share it within one data centre. */
export function webCache(options: WebCacheOptions = {}): CacheStore {
  const { name: cacheName = "lowbit", base = "https://cache.lowbit.invalid/" } = options;
  const name = `cache:${cacheName}`;
  const urlOf = (object: string): string => new URL(object, base).href;
  let opened: Promise<WebCache> | undefined;
  const place = (): Promise<WebCache> => {
    const { caches } = globalThis as { caches?: { open(name: string): Promise<WebCache> } };
    if (caches === undefined) throw unavailable(name, "this runtime has no Cache API");
    opened ??= caches.open(cacheName);
    return opened;
  };
  return {
    name,
    async list() {
      const cache = await place();
      let keys: readonly { readonly url: string }[] | undefined;
      try {
        keys = await cache.keys?.();
      } catch {
        // Workers have the method, but it only throws.
      }
      return (keys ?? []).filter(({ url }) => url.startsWith(base)).map(({ url }) => url.slice(base.length));
    },
    async get(object) {
      const response = await (await place()).match(urlOf(object));
      return response?.ok ? new Uint8Array(await response.arrayBuffer()) : undefined;
    },
    async put(object, bytes) {
      const headers = {
        "content-type": "application/octet-stream",
        "content-length": String(bytes.length),
        // Without an age, Workers would not keep it.
        "cache-control": "public, max-age=31536000",
      };
      await (await place())
        .put(urlOf(object), new Response(bytes as Uint8Array<ArrayBuffer>, { headers }))
        .catch((error: unknown) => {
          if (isNamed(error, "QuotaExceededError")) throw storageFull(name, error);
          throw error;
        });
    },
    async remove(object) {
      await (await place()).delete(urlOf(object));
    },
    lock: (object, signal, body) => webLock(`${name}/${object}`, signal, body),
  };
}
