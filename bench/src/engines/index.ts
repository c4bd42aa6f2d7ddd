import { statSync } from "node:fs";
import { chromium, chromiumWanted } from "@lowbit/testing/chromium";
import type { Contestant, StartOptions } from "../contestant.ts";
import { installed, startPage } from "./browser.ts";
import { lowbitPage, wllama231Page, wllamaCurrentPage } from "./pages.ts";
import { startProcess } from "./process.ts";
import { version } from "./version.ts";

export interface EngineEntry {
  readonly title: string;
  /** Needs Chromium. */
  readonly page: boolean;
  /** Runs Hugging Face folders, too. */
  readonly folders: boolean;
  /** Of the time that a measurement may take, what this engine is given. */
  readonly share: number;
  /** `dist`: where the bundles are. */
  start(options: StartOptions, dist: string): Promise<Contestant>;
}

export const engines: Readonly<Record<string, EngineEntry>> = {
  lowbit: {
    title: "lowbit, Node.js",
    page: false,
    folders: true,
    share: 1,
    start: (options, dist) => startProcess("lowbit", options, dist),
  },
  "lowbit-chromium": {
    title: "lowbit, Chromium",
    page: true,
    folders: true,
    share: 1,
    start: (options, dist) => {
      const isFolder = statSync(options.modelPath).isDirectory();
      const html = lowbitPage(isFolder ? "folder-worker" : "gguf-worker");
      const folders = { "/page/": `${dist}/page/`, "/pkg/": `${dist}/pkg/` };
      return startPage({ version: version("lowbit"), html, folders }, options);
    },
  },
  wllama231: wllama("wllama 2.3.1, Chromium", "wllama231", wllama231Page, 1),
  // Several times slower than its older build, it would take most of the time.
  wllama: wllama("wllama current, Chromium", "@wllama/wllama", wllamaCurrentPage, 1 / 2),
  "node-llama-cpp": {
    title: "native llama.cpp, Node.js",
    page: false,
    folders: false,
    share: 1,
    start: (options, dist) => startProcess("node-llama-cpp", options, dist),
  },
};

function wllama(title: string, name: string, html: string, share: number): EngineEntry {
  const folders = { "/": installed(name) };
  return {
    title,
    page: true,
    folders: false,
    share,
    start: (options) => startPage({ version: version(name), html, folders }, options),
  };
}

/** Why an engine cannot run here, if so. */
export function missing({ page, folders }: EngineEntry, isFolder: boolean): string | undefined {
  if (isFolder && !folders) return "it does not read such folders";
  return page && !chromiumWanted ? `there is no Chromium at ${chromium}` : undefined;
}
