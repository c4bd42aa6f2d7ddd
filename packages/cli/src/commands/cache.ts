import { Command } from "commander";
import { type CacheEntry, cacheEntries, defaultCache, removeFromCache, verifyCacheEntry } from "lowbit";
import { UsageError } from "../errors.ts";
import { formatBytes, formatTable, printable } from "../format.ts";
import { type Io, writeJson } from "../io.ts";
import { interruptible } from "../model.ts";
import { createProgress } from "../progress.ts";

const idLength = 12;

export function cacheCommand(io: Io): Command {
  const command = new Command("cache").description(
    "downloaded models: what run, serve and bench keep of hf: and http(s): locations",
  );
  command
    .command("list")
    .description("what is there, last used first")
    .option("--json", "print one JSON object")
    .action((flags: { json?: boolean }) => list(io, flags.json ?? false));
  command
    .command("remove")
    .description("remove files")
    .argument("[ids...]", "beginnings of their ids, or whole names")
    .option("--all", "remove everything")
    .action((ids: string[], flags: { all?: boolean }) => remove(io, ids, flags.all ?? false));
  command
    .command("verify")
    .description("read files again and hold every byte against its hash")
    .argument("[ids...]", "beginnings of their ids, or whole names (default: all)")
    .action((ids: string[]) => verify(io, ids));
  return command;
}

async function list(io: Io, json: boolean): Promise<void> {
  const store = defaultCache();
  const entries = await cacheEntries(store);
  if (json) {
    writeJson(io, { folder: store.name, entries });
    return;
  }
  const rows = entries.map(({ id, name, size, storedBytes, complete, usedAt }) => [
    id.slice(0, idLength),
    complete ? formatBytes(size) : `${formatBytes(storedBytes)} of ${formatBytes(size)}`,
    new Date(usedAt).toISOString().slice(0, 10),
    printable(name),
  ]);
  const columns = [
    { title: "id" },
    { title: "size", align: "right" as const },
    { title: "used" },
    { title: "name" },
  ];
  if (rows.length > 0) io.stdout.write(`${formatTable(columns, rows)}\n`);
  const total = entries.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  io.stderr.write(`${entries.length} files, ${formatBytes(total)} in ${store.name}\n`);
}

async function remove(io: Io, ids: readonly string[], all: boolean): Promise<void> {
  if (all === ids.length > 0) throw new UsageError("Give ids, or --all.");
  const store = defaultCache();
  const entries = await cacheEntries(store);
  const chosen = all ? entries : choose(entries, ids);
  for (const { id } of chosen) await removeFromCache(store, id);
  // Remnants that belong to no entry go, too.
  if (all) await removeFromCache(store);
  const bytes = chosen.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  io.stderr.write(`Removed ${chosen.length} files, ${formatBytes(bytes)}.\n`);
}

async function verify(io: Io, ids: readonly string[]): Promise<void> {
  const store = defaultCache();
  const entries = await cacheEntries(store);
  const chosen = ids.length === 0 ? entries.filter(({ complete }) => complete) : choose(entries, ids);
  const damaged: string[] = [];
  const progress = createProgress(io);
  await interruptible(io, async (signal) => {
    for (const [index, { id, name }] of chosen.entries()) {
      progress.update("verify", index, chosen.length, "files");
      const right = await verifyCacheEntry(store, id, signal);
      progress.clear();
      io.stdout.write(`${right ? "ok     " : "DAMAGED"}  ${id.slice(0, idLength)}  ${printable(name)}\n`);
      if (!right) damaged.push(id);
    }
  });
  if (damaged.length > 0) {
    const what = damaged.length === 1 ? "1 file is" : `${damaged.length} files are`;
    throw new Error(`${what} damaged; loading fetches what is missing, and cache remove forgets it.`);
  }
}

/** Throws where an id means nothing, or several. */
function choose(entries: readonly CacheEntry[], ids: readonly string[]): CacheEntry[] {
  return ids.map((wanted) => {
    const found = entries.filter(({ id, name }) => name === wanted || id.startsWith(wanted));
    const [only] = found;
    if (only !== undefined && found.length === 1) return only;
    const what = only === undefined ? "is not in the cache" : `means ${found.length} files`;
    throw new UsageError(`${JSON.stringify(wanted)} ${what}; lowbit cache list shows ids.`);
  });
}
