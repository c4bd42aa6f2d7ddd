import { LowbitError, type Thread, type ThreadHost } from "@lowbit/core";
import type { Heap } from "./memory.ts";

/** Threads that do the phases of a pass together. The host's own thread does none of the work, and never blocks. */
export interface Team {
  readonly count: number;
  /** As the export `run`, of a list in shared memory. */
  run(list: number, words: number): Promise<number>;
  /** Ends the threads, also in the middle of a pass. */
  close(): void;
}

/** The host's own instance of the module. */
export interface TeamExports {
  begin_pass(team: number, list: number, words: number): void;
}

/** Words of `Team` in c/threads.c. */
const word = { turns: 4, spins: 7, stops: 8, failed: 9 } as const;
const teamBytes = 64;
/** What the module's own stack has. */
const stackBytes = 65_536;

/**
 * Turns of the loop in which a thread waits before it sleeps: some microseconds where each thread has a processor, which covers most waits for
 * one another; next to none where threads share processors, as those that spin keep the others from theirs.
 */
const spins = { alone: 100_000, crowded: 20 };

/** A thread: an instance of the module over the same memory. Whoever finishes a pass says so. `receive` and `send` are the platform's. */
const script = `
receive(async ({ module, memory, stack, team, index }) => {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  const top = exports.__stack_pointer;
  top.value = typeof top.value === "bigint" ? BigInt(stack) : stack;
  send("ready");
  while (exports.work(team, index)) send("done");
});
`;

/** Starts `count` threads over the heap's shared memory. Throws `backend-unavailable` if the runtime does not let them start. */
export async function startTeam(
  host: ThreadHost,
  module: WebAssembly.Module,
  kernels: TeamExports,
  heap: Heap,
  count: number,
): Promise<Team> {
  const team = heap.allocate(teamBytes, "The threads' common state") / 4;
  heap.words.fill(0, team, team + teamBytes / 4);
  heap.words[team + word.spins] = count > host.processors ? spins.crowded : spins.alone;
  const threads: Thread[] = [];
  const { memory } = heap;
  let pass: { resolve(failed: number): void; reject(error: unknown): void } | undefined;
  let broken: LowbitError | undefined;

  const close = (): void => {
    Atomics.store(heap.words, team + word.stops, 1);
    Atomics.add(heap.words, team + word.turns, 1);
    Atomics.notify(heap.words, team + word.turns);
    for (const thread of threads) thread.terminate();
    threads.length = 0;
  };
  const fail = (cause: unknown): LowbitError => {
    broken ??= new LowbitError("internal", "A thread of the WebAssembly kernels ended unexpectedly.", {
      reason: "thread",
      plugin: "wasm",
      hint: "Load the model again; with threads: 1 it runs without other threads.",
      cause,
    });
    pass?.reject(broken);
    pass = undefined;
    return broken;
  };

  /** Any of them may be the one that finishes. */
  const holdAll = (on: boolean): void => {
    for (const thread of threads) thread.hold(on);
  };

  const start = (index: number): Promise<void> =>
    new Promise((resolve, reject) => {
      const thread = host.start(script, {
        message(value) {
          if (value === "ready") {
            thread.hold(false);
            resolve();
            return;
          }
          holdAll(false);
          pass?.resolve(heap.words[team + word.failed] ?? 0);
          pass = undefined;
        },
        error(cause) {
          fail(cause);
          reject(cause);
        },
      });
      threads.push(thread);
      const stack = heap.allocate(stackBytes, "A thread's stack") + stackBytes;
      thread.send({ module, memory, stack, team: heap.word(4 * team), index });
    });
  try {
    await Promise.all(Array.from({ length: count }, (_, index) => start(index)));
  } catch (cause) {
    close();
    throw new LowbitError("backend-unavailable", "The runtime does not let threads start.", {
      reason: "no-threads",
      plugin: "wasm",
      hint: "A page's Content-Security-Policy must allow worker-src blob:. With threads: 1 none are needed.",
      cause,
    });
  }

  return {
    count,
    run(list, words) {
      if (broken) return Promise.reject(broken);
      holdAll(true);
      const done = new Promise<number>((resolve, reject) => {
        pass = { resolve, reject };
      });
      kernels.begin_pass(heap.word(4 * team), list, words);
      return done;
    },
    close() {
      if (threads.length === 0) return;
      fail(undefined);
      close();
    },
  };
}
