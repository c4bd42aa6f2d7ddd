import { throwIfAborted } from "@lowbit/core";

interface LockManager {
  request<T>(name: string, options: { signal?: AbortSignal }, body: () => Promise<T>): Promise<T>;
}

const waiting = new Map<string, Promise<unknown>>();

/** One at a time over all tabs and workers of an origin, where the runtime has locks; else within this one. */
export async function webLock<T>(
  name: string,
  signal: AbortSignal | undefined,
  body: () => Promise<T>,
): Promise<T> {
  throwIfAborted(signal);
  const { navigator } = globalThis as { navigator?: { locks?: LockManager } };
  if (navigator?.locks !== undefined) {
    try {
      return await navigator.locks.request(`lowbit:${name}`, signal === undefined ? {} : { signal }, body);
    } catch (error) {
      throwIfAborted(signal);
      throw error;
    }
  }
  const before = waiting.get(name);
  const turn = (async () => {
    await before?.catch(() => undefined);
    throwIfAborted(signal);
    return body();
  })();
  waiting.set(name, turn);
  try {
    return await turn;
  } finally {
    if (waiting.get(name) === turn) waiting.delete(name);
  }
}
