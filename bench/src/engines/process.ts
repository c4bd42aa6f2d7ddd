import { type ChildProcess, fork } from "node:child_process";
import type { Contestant, Pass, Started, StartOptions } from "../contestant.ts";
import type { ChildEngine, ChildReply, ChildRequest } from "./child.ts";
import { peakResidentBytes } from "./memory.ts";
import { version } from "./version.ts";

/** An engine for Node.js in a child process of its own. */
export async function startProcess(
  engine: ChildEngine,
  options: StartOptions,
  dist: string,
): Promise<Contestant> {
  const child = fork(`${dist}/node/child.mjs`, { stdio: ["ignore", "ignore", "inherit", "ipc"] });
  try {
    const started = (await ask(child, { call: "start", engine, options })) as Started;
    return {
      ...started,
      version: version(engine),
      downloadBytes: undefined,
      pass: async (request) => (await ask(child, { call: "pass", request })) as Pass,
      peakMemoryBytes: () => (child.pid === undefined ? undefined : peakResidentBytes(child.pid)),
      async close() {
        try {
          await ask(child, { call: "close" });
        } finally {
          await end(child);
        }
      },
    };
  } catch (error) {
    await end(child);
    throw error;
  }
}

/** One request at a time. */
function ask(child: ChildProcess, request: ChildRequest): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void): void => {
      child.off("message", onMessage);
      child.off("exit", onExit);
      act();
    };
    const onMessage = (reply: ChildReply): void =>
      settle(() => ("error" in reply ? reject(new Error(reply.error)) : resolve(reply.value)));
    const onExit = (code: number | null, signal: string | null): void =>
      settle(() => reject(new Error(`The engine's process ended (${code ?? signal}).`)));
    child.once("message", onMessage);
    child.once("exit", onExit);
    if (child.exitCode !== null || child.signalCode !== null) onExit(child.exitCode, child.signalCode);
    else child.send(request);
  });
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await ended;
}
