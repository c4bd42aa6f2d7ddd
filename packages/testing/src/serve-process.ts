import { execFileSync, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

interface Ending {
  readonly code: number | null;
  readonly signal: string | null;
}

/** A server in a process of its own. */
export interface ServingProcess {
  /** Where it listens, without a path. */
  readonly base: string;
  /** What it has written to both of its outputs. */
  output(): string;
  /** When it has ended, and how. */
  readonly ended: Promise<Ending>;
  /** Sends SIGTERM and waits for the end. */
  stop(): Promise<Ending>;
}

/** The executable itself that a development dependency brings: a command around it would not hand signals on. */
export function developmentProgram(name: "bun" | "deno"): string {
  const modules = fileURLToPath(new URL("../../../node_modules/", import.meta.url));
  if (name === "bun") return `${modules}bun/bin/bun.exe`;
  const program = `${modules}deno/deno`;
  // Deno's command puts it there when it first runs.
  if (!existsSync(program)) execFileSync(`${modules}.bin/deno`, ["--version"]);
  return program;
}

/** Starts a program and waits until it has written the address that it listens on. Rejects with its output if it ends before. */
export async function serveProcess(
  [program = "", ...args]: readonly string[],
  options: { cwd: string; env?: Record<string, string> },
): Promise<ServingProcess> {
  const child = spawn(program, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  const ended = new Promise<Ending>((resolve) =>
    child.once("close", (code, signal) => resolve({ code, signal })),
  );
  const base = await new Promise<string>((resolve, reject) => {
    const read = (chunk: Buffer): void => {
      output += String(chunk);
      const found = /http:\/\/[\w.:[\]]+:\d+/.exec(output)?.[0];
      if (found !== undefined) resolve(found);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.once("error", reject);
    ended.then(({ code, signal }) =>
      reject(new Error(`${program} ended with ${code ?? signal}:\n${output}`)),
    );
  });
  return {
    base,
    ended,
    output: () => output,
    stop() {
      child.kill("SIGTERM");
      return ended;
    },
  };
}
