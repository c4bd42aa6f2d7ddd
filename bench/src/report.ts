import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { engines } from "./engines/index.ts";
import { pageOf } from "./page.ts";
import { svgOf } from "./plot.ts";
import { type CellResult, type RunResult, readRun, sameCell } from "./results.ts";

const at = (path: string): string => fileURLToPath(new URL(`../../docs/${path}`, import.meta.url));

/** Makes docs/performance.md and its plot from runs on one machine. Of a cell that is in several, the latest counts. */
export async function writeReport(inputs: readonly string[]): Promise<void> {
  const runs = inputs.map((path) => {
    const run = readRun(path);
    if (run === undefined) throw new Error(`There is no ${path}; measure first.`);
    return run;
  });
  const { markdown, charts, names } = pageOf(merged(runs), titles());
  writeFileSync(at("performance.svg"), `${await svgOf(charts, names)}\n`);
  writeFileSync(at("performance.md"), markdown);
  console.log(`written: docs/performance.md, ${readFileSync(at("performance.md")).byteLength} bytes`);
}

/** Throws for runs on different machines, whose figures say nothing about each other. */
export function merged(runs: readonly RunResult[]): RunResult {
  const [first] = runs;
  if (first === undefined) throw new Error("There are no results to make a page of.");
  const cells: CellResult[] = [];
  for (const { machine, cells: more } of runs) {
    if (JSON.stringify(machine) !== JSON.stringify(first.machine))
      throw new Error("These results are of different machines; make a page of one machine's.");
    for (const cell of more) {
      const at = cells.findIndex((other) => sameCell(cell, other));
      if (at < 0) cells.push(cell);
      else if ((cells[at] as CellResult).date < cell.date) cells[at] = cell;
    }
  }
  return { ...first, command: [...new Set(runs.map(({ command }) => command))].join("; "), cells };
}

function titles(): Record<string, string> {
  return Object.fromEntries(Object.entries(engines).map(([name, { title }]) => [name, title]));
}
