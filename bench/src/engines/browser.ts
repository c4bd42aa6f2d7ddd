import { statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { chromium as chromiumPath } from "@lowbit/testing/chromium";
import { type Browser, type BrowserServer, chromium } from "playwright-core";
import type { Contestant, Pass, Started, StartOptions } from "../contestant.ts";
import { serveAssets } from "./assets.ts";
import { peakOfTree } from "./memory.ts";

const flags: readonly string[] = [
  // No sandbox, as root in a container; the pages are ours.
  "--no-sandbox",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--disable-background-networking",
  "--disable-component-update",
];

export interface PageOptions {
  readonly version: string;
  readonly html: string;
  /** Folders by the path they are served at. */
  readonly folders: Readonly<Record<string, string>>;
}

/** An engine in a page of a Chromium of its own, without a window. */
export async function startPage(
  { version, html, folders }: PageOptions,
  { modelPath, ...options }: StartOptions,
): Promise<Contestant> {
  const server = await serveAssets({ html, folders, modelPath });
  let browserServer: BrowserServer | undefined;
  let browser: Browser | undefined;
  const close = async (): Promise<void> => {
    await browser?.close();
    await browserServer?.kill();
    server.close();
  };
  try {
    browserServer = await chromium.launchServer({ executablePath: chromiumPath, args: [...flags] });
    browser = await chromium.connect(browserServer.wsEndpoint());
    const page = await browser.newPage();
    await page.goto(server.base);
    await page.waitForFunction("globalThis.ready === true && crossOriginIsolated");
    const call = <T>(name: string, value: unknown): Promise<T> =>
      page.evaluate<T>(`${name}(${JSON.stringify(value)})`);
    const model = statSync(modelPath).isDirectory() ? "/model/" : "/model.gguf";
    const started = await call<Started>("start", { ...options, modelPath: `${server.base}${model}` });
    const { pid } = browserServer.process();
    return {
      ...started,
      version,
      downloadBytes: server.downloadBytes(),
      pass: (request) => call<Pass>("pass", request),
      peakMemoryBytes: () => (pid === undefined ? undefined : peakOfTree(pid)),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A folder of what is installed for this package. */
export function installed(name: string): string {
  return fileURLToPath(new URL(`../../node_modules/${name}/`, import.meta.url));
}
