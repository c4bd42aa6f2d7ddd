/** Runs asynchronous sections one after another, in the order in which they came. */
export interface Mutex {
  run<T>(section: () => Promise<T>): Promise<T>;
}

export function createMutex(): Mutex {
  let tail: Promise<unknown> = Promise.resolve();
  return {
    run(section) {
      const result = tail.then(section);
      // A failed section must not block those behind it; its caller gets the error.
      tail = result.catch(() => undefined);
      return result;
    },
  };
}
