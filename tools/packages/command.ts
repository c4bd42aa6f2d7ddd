import { execFile } from "node:child_process";

export interface CommandOptions {
  readonly cwd: string;
  /** Added to this process's environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** @default 120,000 */
  readonly timeoutMs?: number;
}

/** Runs a program to its end. Rejects with all that it wrote, if it fails or takes too long. */
export function run(
  program: string,
  args: readonly string[],
  { cwd, env = {}, timeoutMs = 120_000 }: CommandOptions,
): Promise<{ stdout: string; stderr: string }> {
  const options = {
    cwd,
    env: { ...process.env, ...env },
    timeout: timeoutMs,
    maxBuffer: 2 ** 26,
    encoding: "utf8" as const,
  };
  return new Promise((resolve, reject) => {
    execFile(program, args, options, (error, stdout, stderr) => {
      if (error === null) return resolve({ stdout, stderr });
      const how = error.killed ? `did not end in ${timeoutMs / 1000} s` : `failed (${error.code})`;
      reject(new Error(`${program} ${args.join(" ")} ${how}:\n${stdout}${stderr}`, { cause: error }));
    });
  });
}
