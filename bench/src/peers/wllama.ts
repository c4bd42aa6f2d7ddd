import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import type { Contestant, ContestantFactory, ContestantOptions, Pass } from "../contestant.ts";
import { version } from "./version.ts";

const modules: string = fileURLToPath(new URL("../../node_modules/", import.meta.url));
const browserPath: string = process.env.LOWBIT_CHROMIUM ?? "/usr/bin/chromium";
const mime: Record<string, string> = {
  ".js": "text/javascript",
  ".wasm": "application/wasm",
  ".html": "text/html",
};

/** wllama 2.3.1, the fastest published build: low-level calls, one per token. */
export const wllama231: ContestantFactory = (options) => start("wllama231", "wllama 2.3.1", page231, options);

/** The current wllama: its completion call reports its own timings. */
export const wllamaCurrent: ContestantFactory = (options) =>
  start("@wllama/wllama", "wllama current", pageCurrent, options);

/** Whether the browser that wllama needs is there. */
export function browserAvailable(): boolean {
  return existsSync(browserPath);
}

async function start(
  folder: string,
  name: string,
  script: string,
  options: ContestantOptions,
): Promise<Contestant> {
  const root = join(modules, folder);
  const server = await serve(root, script, options.modelPath);
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  let browser: Browser | undefined;
  try {
    browser = await chromium.launch({
      executablePath: browserPath,
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
      ],
    });
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${port}/`);
    await page.waitForFunction("globalThis.pass !== undefined");
    const { contextLength, threads } = options;
    const loadMs = await page.evaluate<number>(`start(${JSON.stringify({ contextLength, threads })})`);
    return contestant(name, version(folder), loadMs, page, browser, server);
  } catch (error) {
    await browser?.close();
    server.close();
    throw error;
  }
}

function contestant(
  name: string,
  installed: string,
  loadMs: number,
  page: Page,
  browser: Browser,
  server: Server,
): Contestant {
  return {
    name,
    version: installed,
    loadMs,
    pass: (prompt, decodeTokens) =>
      page.evaluate<Pass>(`pass(${JSON.stringify([...prompt])}, ${decodeTokens})`),
    async close() {
      await browser.close();
      server.close();
    },
  };
}

/** Serves the package, the page and the model, cross-origin isolated. */
function serve(root: string, script: string, modelPath: string): Promise<Server> {
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? "/", "http://localhost").pathname;
    response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
    response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    if (path === "/") {
      response.setHeader("Content-Type", "text/html");
      response.end(`<!doctype html><script type="module">${script}</script>`);
      return;
    }
    const file = path === "/model.gguf" ? modelPath : join(root, path);
    if (!existsSync(file) || (file !== modelPath && !file.startsWith(root))) {
      response.statusCode = 404;
      response.end();
      return;
    }
    response.setHeader("Content-Type", mime[extname(file)] ?? "application/octet-stream");
    response.setHeader("Content-Length", statSync(file).size);
    createReadStream(file).pipe(response);
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

const page231 = `
import { Wllama, LoggerWithoutDebug } from "/esm/index.js";
let wllama;
globalThis.start = async ({ contextLength, threads }) => {
  wllama = new Wllama(
    { "single-thread/wllama.wasm": "/esm/single-thread/wllama.wasm", "multi-thread/wllama.wasm": "/esm/multi-thread/wllama.wasm" },
    { suppressNativeLog: true, logger: LoggerWithoutDebug },
  );
  const blob = await (await fetch("/model.gguf")).blob();
  const begin = performance.now();
  await wllama.loadModel([blob], { n_ctx: contextLength, n_batch: 512, n_threads: threads });
  return performance.now() - begin;
};
globalThis.pass = async (prompt, count) => {
  await wllama.kvClear();
  const begin = performance.now();
  await wllama.decode(prompt, {});
  const prompted = performance.now();
  await wllama.samplingInit({ temp: 0 }, []);
  let token = (await wllama.samplingSample()).token;
  const decodeBegin = performance.now();
  for (let i = 0; i < count; i++) {
    await wllama.decode([token], {});
    token = (await wllama.samplingSample()).token;
  }
  return {
    promptTokens: prompt.length,
    promptMs: prompted - begin,
    decodedTokens: count,
    decodeMs: performance.now() - decodeBegin,
  };
};
`;

const pageCurrent = `
import { Wllama, LoggerWithoutDebug } from "/esm/index.js";
let wllama;
globalThis.start = async ({ contextLength, threads }) => {
  wllama = new Wllama({ default: "/esm/wasm/wllama.wasm" }, { suppressNativeLog: true, logger: LoggerWithoutDebug });
  const blob = await (await fetch("/model.gguf")).blob();
  const begin = performance.now();
  await wllama.loadModel([blob], { n_ctx: contextLength, n_batch: 512, n_threads: threads, n_gpu_layers: 0 });
  return performance.now() - begin;
};
// It takes text only, and fails on an answer that is no UTF-8: single bytes above 127 are forbidden. Its server counts the tokens
// and times itself.
const logit_bias = Array.from({ length: 128 }, (_, i) => [128 + i, false]);
globalThis.pass = async (prompt, count) => {
  const letters = prompt.map((id) => String.fromCharCode(97 + (id % 26), 97 + ((id >> 5) % 26)));
  const response = await wllama.createCompletion({
    prompt: letters.join(" ").slice(0, Math.ceil(prompt.length * 1.5)),
    max_tokens: count + 1,
    temperature: 0,
    ignore_eos: true,
    cache_prompt: false,
    logit_bias,
  });
  const timings = response.timings;
  return {
    promptTokens: timings.prompt_n,
    promptMs: timings.prompt_ms,
    decodedTokens: timings.predicted_n,
    decodeMs: timings.predicted_ms,
  };
};
`;
