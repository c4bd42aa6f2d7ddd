import { randomUUID } from "node:crypto";
import { readFile, rm, writeFile } from "node:fs/promises";
import { writeError } from "./node-folder.ts";

/** Tells locks of this process from those of an earlier one that had the same number. */
const instance: string = randomUUID();

/** Takes the lock, over a dead process if need be. Returns what frees it; undefined if somebody holds it. */
export async function takeLock(path: string): Promise<(() => Promise<void>) | undefined> {
  const mine = JSON.stringify({ pid: process.pid, instance });
  for (let attempts = 0; attempts < 4; attempts++) {
    try {
      await writeFile(path, mine, { flag: "wx" });
      let held = true;
      return async () => {
        if (held) await rm(path, { force: true });
        held = false;
      };
    } catch (error) {
      if ((error as { code?: string }).code !== "EEXIST") throw writeError(path, error);
    }
    if (await isHeld(path)) return undefined;
    await rm(path, { force: true });
  }
  return undefined;
}

async function isHeld(path: string): Promise<boolean> {
  try {
    const owner = JSON.parse(await readFile(path, "utf8")) as { pid?: number; instance?: string };
    if (owner.pid === process.pid) return owner.instance === instance;
    if (owner.pid === undefined || !(owner.pid > 0)) return false;
    process.kill(owner.pid, 0);
    return true;
  } catch (error) {
    // EPERM: it lives, as another user's. A torn or vanished lock is nobody's.
    return (error as { code?: string }).code === "EPERM";
  }
}
