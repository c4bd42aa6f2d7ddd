/**
 * `npm run bench`: lowbit in Node.js and in Chromium, wllama in the same Chromium, and native llama.cpp, on the same file in one run. Each
 * round gives every engine its turn, so that a busy machine slows all alike. JSON after each file; `--report` makes the page of it.
 */
import { createReadStream } from "node:fs";
import { relative } from "node:path";
import { runCell } from "./cell.ts";
import { bundleEngines } from "./engines/bundle.ts";
import { benchModel, described } from "./models.ts";
import { help, type Settings, settingsOf } from "./options.ts";
import { isShape } from "./recipe.ts";
import { writeReport } from "./report.ts";
import { readRun, sameCell, thisMachine, writeRun } from "./results.ts";
import { cellTable } from "./tables.ts";

async function run({
  cells,
  out,
  fresh,
  prepare,
  minutes,
}: Extract<Settings, { action: "run" }>): Promise<void> {
  let measuredMs = 0;
  const say = (text: string): void => console.error(`  ${text} …`);
  const machine = thisMachine();
  const command = ["npm run bench --", ...process.argv.slice(2)].join(" ");
  let done = fresh ? [] : (readRun(out)?.cells ?? []);
  await bundleEngines();
  for (const [index, cell] of cells.entries()) {
    const title = `${cell.shape} ${cell.type}, ${cell.threads} ${cell.threads === 1 ? "thread" : "threads"}`;
    if (!fresh && !prepare && done.some((other) => sameCell(other, cell))) {
      console.error(`${title}: measured before`);
      continue;
    }
    if (measuredMs > minutes * 60_000) {
      console.error(`The time is over; the same command goes on with ${title} and what comes after it.`);
      break;
    }
    console.error(`${index + 1} of ${cells.length}: ${title}`);
    const model = isShape(cell.shape) ? await benchModel(cell.shape, cell.type) : await described(cell.shape);
    if (prepare) continue;
    if (!model.isFolder) await readOnce(model.path);
    const result = await runCell(cell, model, { say });
    measuredMs += result.seconds * 1000;
    done = [...done.filter((other) => !sameCell(other, cell)), result];
    writeRun(out, { schema: 1, machine, command, cells: done });
    console.log(cellTable(result));
  }
  if (!prepare) console.log(`written to ${relative(process.cwd(), out)}`);
}

/** So that no engine waits for the disk. */
async function readOnce(path: string): Promise<void> {
  for await (const _ of createReadStream(path, { highWaterMark: 2 ** 22 }));
}

try {
  const settings = settingsOf(process.argv.slice(2));
  if (settings.action === "help") console.log(help);
  else if (settings.action === "report") await writeReport(settings.inputs);
  else await run(settings);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
