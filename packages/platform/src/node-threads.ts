import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { ThreadHost } from "@lowbit/core";

const prelude = `
const { parentPort } = process.getBuiltinModule("node:worker_threads");
const receive = (listener) => parentPort.on("message", listener);
const send = (message) => parentPort.postMessage(message);
`;

/** Worker threads of Node.js, and of runtimes that offer its modules. */
export function nodeThreads(): ThreadHost {
  return {
    processors: availableParallelism(),
    start(script, { message, error }) {
      const worker = new Worker(prelude + script, { eval: true });
      worker.on("message", message);
      worker.on("error", error);
      worker.on("messageerror", error);
      return {
        send: (value) => worker.postMessage(value),
        hold: (on) => (on ? worker.ref() : worker.unref()),
        terminate() {
          worker.unref();
          void worker.terminate();
        },
      };
    },
  };
}
