/** Trials of the README's snippet in a web page that Vite builds, or serves while one writes it. */
import { type ChildProcess, spawn } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import { chromium, chromiumWanted, inChromium } from "@lowbit/testing/chromium";
import { root } from "../workspace.ts";
import { run } from "./command.ts";
import { asScript, page } from "./readme.ts";
import { expectLines, linesOf, type Trial } from "./trial.ts";

/** Said by Vite of what would fail in the page. */
const complaints = /doesn't exist at build time|externalized for browser compatibility|\[warn|warning:/i;

const mimeTypes: Readonly<Record<string, string>> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".wasm": "application/wasm",
};

export async function pageTrials(folder: string, snippet: string): Promise<Trial[]> {
  await writeFile(join(folder, "index.html"), page);
  await writeFile(join(folder, "page.ts"), asScript(snippet));
  return [
    { name: `Vite build: ${chromiumWanted ? "Chromium" : "Deno"}`, run: () => tryBuilt(folder) },
    ...(chromiumWanted ? [{ name: "Vite's own server: Chromium", run: () => tryServed(folder) }] : []),
  ];
}

function vite(folder: string): string {
  return join(folder, "node_modules/vite/bin/vite.js");
}

async function tryBuilt(folder: string): Promise<string> {
  const args = [vite(folder), "build", "--outDir", "built-page"];
  const { stdout, stderr } = await run(process.execPath, args, { cwd: folder, env: { NO_COLOR: "1" } });
  const complaint = linesOf(stdout + stderr).find((line) => complaints.test(line));
  if (complaint !== undefined) throw new Error(`Vite complains: ${complaint}`);
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://page");
    const name = pathname === "/" ? "index.html" : normalize(pathname);
    readFile(join(folder, "built-page", name)).then(
      (bytes) => {
        response.setHeader("content-type", mimeTypes[extname(name)] ?? "application/octet-stream");
        response.end(bytes);
      },
      () => response.writeHead(404).end(),
    );
  });
  const address = await listen(server);
  try {
    if (chromiumWanted) return expectLines(await openPage(address), "browser");
    return `${expectLines(await runAsPage(folder, address), "browser")}, as there is no ${chromium}`;
  } finally {
    server.close();
    server.closeAllConnections();
  }
}

async function tryServed(folder: string): Promise<string> {
  const args = [vite(folder), "--host", "127.0.0.1", "--port", "0", "--clearScreen", "false"];
  const child = spawn(process.execPath, args, { cwd: folder, env: { ...process.env, NO_COLOR: "1" } });
  try {
    return expectLines(await openPage(await addressOf(child)), "browser");
  } finally {
    await end(child);
  }
}

/** The address that a server prints. */
function addressOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let written = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        written += text;
        const [address] = /http:\/\/127\.0\.0\.1:\d+\//.exec(written) ?? [];
        if (address !== undefined) resolve(address);
      });
    }
    child.on("error", reject);
    child.on("exit", () => reject(new Error(`The server ended:\n${written}`)));
  });
}

/** Opens a page in Chromium; the two lines that it reports. */
async function openPage(address: string): Promise<string[]> {
  const reports = createServer();
  const target = `${address}?report=${encodeURIComponent(await listen(reports))}`;
  try {
    return await inChromium(target, reported(reports));
  } finally {
    reports.close();
    reports.closeAllConnections();
  }
}

/** What the page posts, once it is all there. */
function reported(reports: Server): Promise<string[]> {
  return new Promise((resolve, reject) => {
    reports.on("request", async (request: IncomingMessage, response: ServerResponse) => {
      let body = "";
      for await (const text of request.setEncoding("utf8")) body += text;
      response.end();
      const { logged, error } = JSON.parse(body) as { logged?: string[]; error?: string };
      if (error !== undefined) reject(new Error(`The page failed: ${error}`));
      else if (logged !== undefined && logged.length >= 2) resolve(logged);
    });
  });
}

/**
 * Without a browser: the built module is fetched from its server and run by Deno, whose global scope is a page's but for the document
 * and Deno's own name.
 */
async function runAsPage(folder: string, address: string): Promise<string[]> {
  const program = `
    const html = await (await fetch(${JSON.stringify(address)})).text();
    const [, source] = /<script type="module"[^>]* src="([^"]+)"/.exec(html);
    globalThis.document = { createElement: () => ({ relList: { supports: () => true } }) };
    delete globalThis.Deno;
    await import(new URL(source, ${JSON.stringify(address)}).href);
  `;
  await writeFile(join(folder, "as-page.js"), program);
  const args = ["run", "-A", "--quiet", "as-page.js"];
  const deno = join(root, "node_modules/.bin/deno");
  return linesOf((await run(deno, args, { cwd: folder, env: { DENO_NO_UPDATE_CHECK: "1" } })).stdout);
}

function listen(server: Server): Promise<string> {
  return new Promise((resolve, reject) => {
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () =>
      resolve(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`),
    );
  });
}

function end(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return resolve();
    child.on("exit", () => resolve());
    child.kill();
  });
}
