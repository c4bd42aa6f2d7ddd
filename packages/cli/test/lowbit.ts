import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const program: string = fileURLToPath(new URL("../src/main.ts", import.meta.url));

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly input?: string;
  readonly env?: Record<string, string>;
  /** Sent when the first output comes. */
  readonly signal?: NodeJS.Signals;
  /** Called until it says true; then the signal is sent. Instead of waiting for output. */
  readonly when?: () => boolean;
}

/** A folder to run the command in, as a program of its own. */
export interface Workplace {
  readonly folder: string;
  run(args: readonly string[], options?: RunOptions): Promise<Ended>;
  remove(): void;
}

export function workplace(): Workplace {
  const folder = mkdtempSync(join(tmpdir(), "lowbit-cli-"));
  return {
    folder,
    run(args, { input = "", env = {}, signal, when } = {}) {
      const child = spawn(process.execPath, [program, ...args], {
        cwd: folder,
        env: { ...process.env, ...env },
      });
      const text = { stdout: "", stderr: "" };
      for (const name of ["stdout", "stderr"] as const) {
        child[name].setEncoding("utf8").on("data", (chunk) => {
          text[name] += chunk;
          if (signal !== undefined && when === undefined && name === "stdout" && !child.killed)
            child.kill(signal);
        });
      }
      const watch = setInterval(() => {
        if (when === undefined || child.killed || !when()) return;
        child.kill(signal);
      }, 1);
      child.stdin.on("error", () => {}); // A program that ends early does not read its input.
      child.stdin.end(input);
      return new Promise((done) =>
        child.on("close", (code) => {
          clearInterval(watch);
          done({ code, ...text });
        }),
      );
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
