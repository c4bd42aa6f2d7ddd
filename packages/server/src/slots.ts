import { ApiError, apiError } from "./errors.ts";

/** Admission: so many requests run, so many wait, the rest are turned away. */
export interface Slots {
  readonly running: number;
  readonly waiting: number;
  /** Resolves with the function that gives the slot back. Throws 429 if the queue is full, 503 once closed, 499 if aborted. */
  acquire(signal: AbortSignal): Promise<() => void>;
  /** Turns everybody away from now on, those that wait too. */
  close(): void;
  /** Resolves when nothing runs any more. */
  idle(): Promise<void>;
}

interface Waiter {
  start(): void;
  reject(error: ApiError): void;
}

export function createSlots(parallel: number, queue: number): Slots {
  const waiters: Waiter[] = [];
  const idlers: (() => void)[] = [];
  let running = 0;
  let closed = false;
  /** Of requests, in seconds: a moving average. */
  let typical = 1;

  const take = (): (() => void) => {
    running++;
    const started = performance.now();
    let released = false;
    return () => {
      if (released) return;
      released = true;
      running--;
      typical += 0.1 * ((performance.now() - started) / 1000 - typical);
      waiters.shift()?.start();
      if (running === 0) for (const done of idlers.splice(0)) done();
    };
  };

  return {
    get running() {
      return running;
    },
    get waiting() {
      return waiters.length;
    },
    async acquire(signal) {
      if (closed) throw shuttingDown();
      if (signal.aborted) throw apiError(signal.reason);
      if (running < parallel) return take();
      if (waiters.length >= queue) {
        const seconds = Math.ceil((typical * (waiters.length + 1)) / parallel);
        throw new ApiError(429, `The server is busy: ${running} requests run and ${waiters.length} wait.`, {
          code: "queue_full",
          retryAfter: Math.min(60, Math.max(1, seconds)),
        });
      }
      return new Promise((resolve, reject) => {
        const leave = (): void => signal.removeEventListener("abort", onAbort);
        const waiter: Waiter = {
          start() {
            leave();
            resolve(take());
          },
          reject(error) {
            leave();
            reject(error);
          },
        };
        const onAbort = (): void => {
          const at = waiters.indexOf(waiter);
          if (at >= 0) waiters.splice(at, 1);
          waiter.reject(apiError(signal.reason));
        };
        signal.addEventListener("abort", onAbort);
        waiters.push(waiter);
      });
    },
    close() {
      closed = true;
      for (const waiter of waiters.splice(0)) waiter.reject(shuttingDown());
    },
    idle() {
      return running === 0 ? Promise.resolve() : new Promise((done) => idlers.push(done));
    },
  };
}

export function shuttingDown(): ApiError {
  return new ApiError(503, "The server is shutting down.", { code: "shutting_down", retryAfter: 5 });
}
