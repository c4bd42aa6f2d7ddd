/** `npm run build`: every package's dist/, through turbo, which needs the workspace's own pnpm on PATH. */
import { spawn } from "node:child_process";
import { readManifest, root } from "./workspace.ts";

const { packageManager } = readManifest("");
const env = { ...process.env, TURBO_TELEMETRY_DISABLED: "1", DO_NOT_TRACK: "1" };
const command = ["turbo", "run", "build", ...process.argv.slice(2)].join(" ");
const child = spawn("npx", ["--yes", `--package=${packageManager}`, "--call", command], {
  cwd: root,
  stdio: "inherit",
  env,
  shell: process.platform === "win32",
});
child.on("error", (error) => {
  console.error(`lowbit: cannot start npx: ${error.message}`);
  process.exitCode = 1;
});
child.on("exit", (code) => {
  process.exitCode = code ?? 1;
});
