import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The program: what `LOWBIT_CHROMIUM` names, else where Debian puts it. */
export const chromium: string = process.env.LOWBIT_CHROMIUM ?? "/usr/bin/chromium";

/** Is Chromium to be tried? Where it is installed, and where `LOWBIT_ALL_RUNTIMES` is set, as in CI: there its absence fails. */
export const chromiumWanted: boolean = existsSync(chromium) || process.env.LOWBIT_ALL_RUNTIMES !== undefined;

const deadlineMs = 60_000;

const flags: readonly string[] = [
  "--headless",
  // No sandbox, as tests may run as root in a container; the pages are ours.
  "--no-sandbox",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--no-first-run",
  // Nothing but the page fetches anything.
  "--disable-background-networking",
  "--disable-component-update",
];

/**
 * Shows a page in Chromium, without a window and with a profile of its own, until the page has given its answer, which reaches the caller
 * in a request. Rejects if Chromium cannot be started or ends before, and after a minute.
 */
export async function inChromium<T>(address: string, answer: Promise<T>): Promise<T> {
  const profile = await mkdtemp(join(tmpdir(), "lowbit-chromium-"));
  const browser = spawn(chromium, [...flags, `--user-data-dir=${profile}`, address], { stdio: "ignore" });
  let timer: NodeJS.Timeout | undefined;
  const failed = new Promise<never>((_, reject) => {
    const late = () => reject(new Error(`The page did not answer in ${deadlineMs / 1000} s.`));
    timer = setTimeout(late, deadlineMs);
    browser.once("error", (cause) =>
      reject(new Error(`${chromium} cannot be started: ${cause.message}`, { cause })),
    );
    browser.once("exit", (code, signal) =>
      reject(new Error(`Chromium ended (${code ?? signal}) before the page had answered.`)),
    );
  });
  // Also after a failed start.
  const ended = new Promise((resolve) => browser.once("close", resolve));
  try {
    return await Promise.race([answer, failed]);
  } finally {
    clearTimeout(timer);
    browser.kill("SIGKILL");
    await ended;
    // Its helpers, which write there, end a little later.
    await rm(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}
