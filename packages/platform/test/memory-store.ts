import { LowbitError } from "@lowbit/core";
import type { CacheStore } from "../src/cache-store.ts";

/** A store in memory that holds so many bytes. */
export function memoryStore(maxBytes: number = Number.POSITIVE_INFINITY): CacheStore {
  const objects = new Map<string, Uint8Array>();
  return {
    name: "memory",
    list: () => Promise.resolve([...objects.keys()]),
    get: (object) => Promise.resolve(objects.get(object)?.slice()),
    put(object, bytes) {
      const others = [...objects].reduce((sum, [name, one]) => sum + (name === object ? 0 : one.length), 0);
      if (others + bytes.length > maxBytes) {
        return Promise.reject(new LowbitError("out-of-memory", "memory is full", { reason: "storage-full" }));
      }
      objects.set(object, bytes.slice());
      return Promise.resolve();
    },
    remove(object) {
      objects.delete(object);
      return Promise.resolve();
    },
    lock: (_name, _signal, body) => body(),
  };
}
