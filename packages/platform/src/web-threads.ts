import type { ThreadHost } from "@lowbit/core";

const prelude = `
const receive = (listener) => { onmessage = ({ data }) => listener(data); };
const send = (message) => postMessage(message);
`;

interface WebWorker {
  onmessage: ((event: { data: unknown }) => void) | null;
  onmessageerror: ((event: unknown) => void) | null;
  onerror: ((event: { message?: string; preventDefault(): void }) => void) | null;
  postMessage(message: unknown): void;
  terminate(): void;
}

/** Dedicated workers; undefined where memory cannot be shared with them: in pages that are not cross-origin isolated, and in isolates. */
export function webThreads(): ThreadHost | undefined {
  const { Worker, crossOriginIsolated, navigator } = globalThis as {
    Worker?: new (url: string, options: { name: string }) => WebWorker;
    crossOriginIsolated?: boolean;
    navigator?: { hardwareConcurrency?: number };
  };
  if (Worker === undefined || crossOriginIsolated !== true) return undefined;
  return {
    processors: navigator?.hardwareConcurrency ?? 1,
    start(script, { message, error }) {
      const url = URL.createObjectURL(new Blob([prelude + script], { type: "text/javascript" }));
      const worker = new Worker(url, { name: "lowbit" });
      worker.onmessage = ({ data }) => {
        URL.revokeObjectURL(url);
        message(data);
      };
      worker.onmessageerror = error;
      worker.onerror = (event) => {
        event.preventDefault();
        error(new Error(event.message ?? "The worker could not start."));
      };
      // Pages end when they are left, whatever their workers do.
      return { send: (value) => worker.postMessage(value), hold() {}, terminate: () => worker.terminate() };
    },
  };
}
