#!/usr/bin/env node
// The one entry of the root scripts: plain JavaScript that runs on Node 20 or later with nothing installed.
// It installs the dependencies if they are missing or stale, then runs the command on the pinned Node.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const marker = join(root, "node_modules/.installed");
const windows = process.platform === "win32";

/**
 * What each verb runs on the pinned Node. Verbs with `callerFolder` run in the folder that npm was called from, so that
 * a user's relative paths mean what they say; the others run in the repository's root. With `lean` the tools for
 * development, a gigabyte of them, are not needed.
 */
const verbs = {
  start: { script: "packages/cli/src/main.ts", args: ["run"], callerFolder: true, lean: true },
  lowbit: { script: "packages/cli/src/main.ts", callerFolder: true, lean: true },
  bench: { script: "bench/src/main.ts" },
  test: { script: "tools/test.ts" },
  check: { script: "tools/test.ts", args: ["--checks"] },
  build: { script: "tools/build.ts" },
  node: { callerFolder: true },
};

/** Files that decide what is installed. */
function manifests() {
  const folders = ["packages", "plugins", "kernels", "models", "examples"].flatMap((parent) =>
    existsSync(join(root, parent)) ? readdirSync(join(root, parent)).map((name) => join(parent, name)) : [],
  );
  return ["pnpm-lock.yaml", "pnpm-workspace.yaml", "package.json", "bench/package.json"]
    .concat(folders.sort().map((folder) => join(folder, "package.json")))
    .filter((file) => existsSync(join(root, file)));
}

function fingerprint() {
  const hash = createHash("sha256");
  for (const file of manifests()) hash.update(`${file}\0`).update(readFileSync(join(root, file)));
  return hash.digest("hex");
}

function pinnedNode() {
  return join(root, "node_modules/node/bin", windows ? "node.exe" : "node");
}

/** What the last install left: "lean" or "all" of which manifests. */
function lastInstall() {
  if (!existsSync(marker) || !existsSync(pinnedNode())) return {};
  const [extent, manifests] = readFileSync(marker, "utf8").split(" ");
  return { extent, manifests };
}

/** Runs pnpm with its output on stderr: one moving line on a terminal, all of it only if it fails. */
async function install(extent) {
  const { packageManager } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const pnpm = packageManager.split("+")[0];
  const terminal = process.stderr.isTTY === true;
  const started = Date.now();
  process.stderr.write("lowbit: installing what it needs (once, a minute or so) …\n");
  const args = ["--yes", pnpm, "install", "--frozen-lockfile", "--reporter=append-only"];
  if (extent === "lean") args.push("--prod");
  const child = spawn("npx", args, {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
    shell: windows,
    env: { ...process.env, CI: "1" },
  });
  let log = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      log += text;
      const line = text.trimEnd().split("\n").pop();
      if (terminal) process.stderr.write(`\r\x1b[K${line.slice(0, (process.stderr.columns || 80) - 1)}`);
    });
  }
  const code = await new Promise((done) => {
    child.on("error", (error) => {
      log += `${error.message}\n`;
      done(1);
    });
    child.on("close", done);
  });
  if (terminal) process.stderr.write("\r\x1b[K");
  if (code !== 0) {
    process.stderr.write(`${log}\nlowbit: installing the dependencies failed (exit code ${code}).\n`);
    process.exit(1);
  }
  process.stderr.write(`lowbit: installed in ${Math.round((Date.now() - started) / 1000)} s.\n`);
}

/** Runs the child with this process's streams, passes signals on and ends as it ends. */
function run(command, args, cwd) {
  const path = [dirname(command), join(root, "node_modules/.bin"), process.env.PATH ?? ""].join(delimiter);
  const env = { ...process.env, PATH: path };
  const child = spawn(command, args, { cwd, stdio: "inherit", env });
  // A terminal sends Ctrl-C to the whole group: passing it on as well would count it twice.
  process.on("SIGINT", () => {
    if (!process.stdin.isTTY) child.kill("SIGINT");
  });
  for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
  child.on("error", (error) => {
    process.stderr.write(`lowbit: cannot start ${command}: ${error.message}\n`);
    process.exit(1);
  });
  child.on("exit", (code, signal) => process.exit(signal ? 128 + constants.signals[signal] : code));
}

async function main() {
  if (Number(process.versions.node.split(".")[0]) < 20) {
    process.stderr.write(`lowbit: this needs Node 20 or later, but it runs on ${process.version}.\n`);
    process.exit(2);
  }
  const [name, ...rest] = process.argv.slice(2);
  const verb = Object.hasOwn(verbs, name ?? "") ? verbs[name] : undefined;
  if (verb === undefined) {
    const known = Object.keys(verbs).join(", ");
    process.stderr.write(`lowbit: unknown verb ${JSON.stringify(name)}; known are ${known}.\n`);
    process.exit(2);
  }
  const wanted = fingerprint();
  const last = lastInstall();
  // Tools that somebody installed by hand are not taken away again.
  const tools = last.extent === "all" || existsSync(join(root, "node_modules/typescript"));
  const extent = verb.lean && !tools ? "lean" : "all";
  if (last.manifests !== wanted || (extent === "all" && last.extent !== "all")) {
    await install(extent);
    if (!existsSync(pinnedNode())) {
      process.stderr.write(
        `lowbit: the install left no Node at ${pinnedNode()}; remove node_modules and retry.\n`,
      );
      process.exit(1);
    }
    writeFileSync(marker, `${extent} ${wanted}`);
  }
  const script = verb.script === undefined ? [] : [join(root, verb.script)];
  const cwd = verb.callerFolder ? (process.env.INIT_CWD ?? process.cwd()) : root;
  run(pinnedNode(), [...script, ...(verb.args ?? []), ...rest], cwd);
}

await main();
