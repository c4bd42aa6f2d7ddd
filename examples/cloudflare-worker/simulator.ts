// Runs the Worker as Cloudflare does, on this machine, for the tests beside it.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundleWorker, workerModules } from "@lowbit/testing/worker";
import { Miniflare } from "miniflare";

export interface Simulator {
  readonly base: URL;
  readonly bundleBytes: number;
  /**
   * Watches the isolate's JavaScript heap and its buffers outside of it; WebAssembly memory is not among them. What it gives ends that and
   * tells the most that was seen, in bytes.
   */
  watchHeap(): Promise<() => number>;
  /** Of workerd's processes. */
  residentBytes(): number;
  /** Seconds that they have computed. */
  cpuSeconds(): number;
  [Symbol.asyncDispose](): Promise<void>;
}

/** workerd with the Worker, and with `model` (a path) in its bucket. `script` is what runs instead of the Worker. */
export async function simulate(
  model: string | undefined,
  bindings: Record<string, string> = {},
  script?: string,
): Promise<Simulator> {
  const folder = mkdtempSync(join(tmpdir(), "lowbit-worker-"));
  const bundle = join(folder, "bundle");
  const names = await bundleWorker(fileURLToPath(new URL("worker.ts", import.meta.url)), bundle);
  const config = readFileSync(new URL("wrangler.jsonc", import.meta.url), "utf8");
  const { compatibility_date, compatibility_flags } = JSON.parse(config.replace(/^\s*\/\/.*$/gm, ""));
  const start = (): Miniflare =>
    new Miniflare({
      ...(script === undefined
        ? { modules: workerModules(bundle, names), modulesRoot: bundle }
        : { modules: true, script }),
      compatibilityDate: compatibility_date,
      compatibilityFlags: compatibility_flags,
      r2Buckets: ["MODELS"],
      defaultPersistRoot: join(folder, "state"),
      bindings: { MODEL: "model.gguf", ...bindings },
      inspectorPort: 0,
    });
  if (model !== undefined) {
    // A process of its own: what storing takes would be counted with what loading takes.
    const store = start();
    const bucket = (await store.getR2Bucket("MODELS")) as unknown as {
      put(key: string, value: Uint8Array): Promise<unknown>;
    };
    await bucket.put("model.gguf", readFileSync(model));
    await store.dispose();
  }
  const others = new Set(workerdProcesses());
  const miniflare = start();
  const base = await miniflare.ready;
  const mine = workerdProcesses().filter((pid) => !others.has(pid));
  const inspector = await miniflare.getInspectorURL();
  return {
    base,
    bundleBytes: names.reduce((sum, name) => sum + statSync(join(bundle, name)).size, 0),
    watchHeap: () => watchHeap(`ws://${inspector.host}/core:user:`),
    residentBytes: () =>
      mine.reduce((sum, pid) => {
        const status = readFileSync(`/proc/${pid}/status`, "utf8");
        return sum + 1024 * Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]);
      }, 0),
    cpuSeconds: () =>
      mine.reduce((sum, pid) => {
        // Fields 14 and 15, in hundredths of a second; the second, in parentheses, may hold spaces.
        const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
        return sum + (Number(fields[11]) + Number(fields[12])) / 100;
      }, 0),
    async [Symbol.asyncDispose]() {
      await miniflare.dispose();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function workerdProcesses(): string[] {
  try {
    return execFileSync("pgrep", ["-P", String(process.pid), "workerd"], { encoding: "utf8" })
      .trim()
      .split("\n");
  } catch {
    return [];
  }
}

/** Asks V8's inspector every 20 ms. */
async function watchHeap(url: string): Promise<() => number> {
  const socket = new WebSocket(url);
  await new Promise((opened, failed) => {
    socket.onopen = opened;
    socket.onerror = failed;
  });
  let most = 0;
  let id = 0;
  const ask = (): void => socket.send(JSON.stringify({ id: ++id, method: "Runtime.getHeapUsage" }));
  socket.onmessage = ({ data }) => {
    const { result } = JSON.parse(String(data));
    if (result === undefined) return;
    most = Math.max(most, result.usedSize + result.backingStorageSize);
    setTimeout(() => socket.readyState === WebSocket.OPEN && ask(), 20);
  };
  ask();
  return () => {
    socket.close();
    return most;
  };
}
