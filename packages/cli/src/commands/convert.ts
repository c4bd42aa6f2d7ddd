import { writeFile } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { Command, Option } from "commander";
import {
  type ConversionProgress,
  type ConversionReport,
  type ConvertOptions,
  convert,
  defaultPlugins,
  LowbitError,
  targetNames,
  type WeightReport,
} from "lowbit";
import { type Column, formatBytes, formatCount, formatPairs, formatTable, printable } from "../format.ts";
import { type Io, writeJson } from "../io.ts";
import { interruptible, locationOf } from "../model.ts";
import { parseCount, parseInteger, parseNumber } from "../options.ts";
import { createProgress } from "../progress.ts";

interface ConvertFlags {
  readonly to: string;
  readonly output?: string;
  readonly type?: string;
  readonly bits?: number;
  readonly groupSize?: number;
  readonly symmetric?: boolean;
  readonly asymmetric?: boolean;
  readonly variant?: string;
  readonly maxFileBytes?: number;
  readonly exact?: boolean;
  readonly overwrite?: boolean;
  readonly resume: boolean;
  readonly report?: string;
  readonly details?: boolean;
  readonly json?: boolean;
}

export function convertCommand(io: Io): Command {
  return new Command("convert")
    .description("to another format or packing, with a report of what each tensor lost")
    .argument("[model]", "file, folder or URL of a model (default: pico)")
    .requiredOption("--to <target>", targetNames(defaultPlugins()).join(", "))
    .option("-o, --output <path>", "where to (default: <model>-<target> in the working directory)")
    .option(
      "--type <type>",
      "for gguf and safetensors: what to quantize to, Q4_0 or f16; without it values are kept",
    )
    .option("--bits <number>", "bits of a code (default: the source's, else the packing's own)", parseNumber)
    .option(
      "--group-size <columns>",
      "columns that share a scale, -1 for whole rows (default: likewise)",
      parseInteger,
    )
    .option("--symmetric", "no zero points (default: likewise)")
    .addOption(new Option("--asymmetric", "zero points").conflicts("symmetric"))
    .option("--variant <name>", "where a packing has several: gptq_v2, gemv, nf4 …")
    .option("--max-file-bytes <bytes>", "split safetensors files at this size (default: 5 GB)", parseCount)
    .option("--exact", "refuse to round: end at the first tensor whose values would change")
    .option("--overwrite", "replace the output, if it is a file or the folder of a model")
    .option("--no-resume", "start afresh instead of going on with what an interrupted run has left")
    .option("--report <file>", "write the full report as JSON")
    .option("--details", "print a line for each tensor")
    .option("--json", "print the full report as one JSON object")
    .addHelpText("after", examples)
    .action((model: string | undefined, flags: ConvertFlags) => run(io, model, flags));
}

const examples = `
exact: bits were moved as they are; lossless: every value is the same number; requantized: rounded anew.
A run that was stopped leaves <output>.partial; the same command goes on from there.

  lowbit convert llama-hf --to gguf --type Q8_0
  lowbit convert llama-hf --to gptq --bits 4 --group-size 128 -o llama-gptq
  lowbit convert llama-gptq --to awq --exact`;

async function run(io: Io, model: string | undefined, flags: ConvertFlags): Promise<void> {
  const output = flags.output ?? defaultOutput(model, flags);
  const report = await interruptible(io, (signal) => convertShown(io, model, output, flags, signal));
  if (flags.report !== undefined) await writeReport(flags.report, report);
  if (flags.json) writeJson(io, report);
  else io.stdout.write(`${textOf(report, output, flags.details ?? false)}\n`);
}

/** With a bar, and a word about earlier runs and later ones. */
async function convertShown(
  io: Io,
  model: string | undefined,
  output: string,
  flags: ConvertFlags,
  signal: AbortSignal,
): Promise<ConversionReport> {
  const progress = createProgress(io);
  let last: ConversionProgress | undefined;
  try {
    return await convert(locationOf(model), output, {
      ...optionsOf(flags),
      signal,
      onProgress(event) {
        if (last === undefined) io.stderr.write(greeting(event, output));
        last = event;
        if (event.phase === "done") return;
        const label = event.phase === "weights" ? "converting" : "writing files";
        progress.update(label, event.doneBytes, event.totalBytes);
      },
    });
  } catch (error) {
    progress.clear();
    if (LowbitError.is(error) && error.code === "aborted" && last !== undefined && last.doneWeights > 0) {
      io.stderr.write(
        `Stopped with ${last.doneWeights} of ${last.totalWeights} weights done; the same command goes on from there.\n`,
      );
    }
    throw error;
  } finally {
    progress.clear();
  }
}

function greeting({ resumedWeights, totalWeights, discarded }: ConversionProgress, output: string): string {
  if (discarded !== undefined)
    return `Starting afresh: ${output}.partial is not used, because ${discarded}.\n`;
  return resumedWeights === 0
    ? ""
    : `${resumedWeights} of ${totalWeights} weights were done by an earlier run.\n`;
}

const optionNames = [
  "to",
  "type",
  "bits",
  "groupSize",
  "variant",
  "maxFileBytes",
  "exact",
  "overwrite",
  "resume",
] as const;

function optionsOf(flags: ConvertFlags): ConvertOptions {
  const given = optionNames.filter((name) => flags[name] !== undefined).map((name) => [name, flags[name]]);
  const symmetric = flags.symmetric ? true : flags.asymmetric ? false : undefined;
  return { ...Object.fromEntries(given), to: flags.to, ...(symmetric !== undefined && { symmetric }) };
}

/** "model-gptq", "model-Q4_0.gguf": in the working directory. */
export function defaultOutput(
  model: string | undefined,
  { to, type }: Pick<ConvertFlags, "to" | "type">,
): string {
  const path =
    model === undefined
      ? "pico"
      : /^[a-z][a-z0-9+.-]+:/i.test(model)
        ? new URL(model).pathname
        : resolve(model);
  const base = basename(path).replace(/\.(gguf|safetensors|safetensors\.index\.json)$/i, "") || "model";
  const suffix = type === undefined ? "" : `-${type}`;
  return to === "gguf" ? `${base}${suffix}.gguf` : `${base}-${to}${suffix}`;
}

async function writeReport(file: string, report: ConversionReport): Promise<void> {
  try {
    await writeFile(file, `${JSON.stringify(report, undefined, 2)}\n`);
  } catch (error) {
    throw new LowbitError("not-found", `The report ${file} cannot be written; the model itself is done.`, {
      reason: "write-failed",
      cause: error,
    });
  }
}

function textOf(report: ConversionReport, output: string, details: boolean): string {
  const { before, after, options, notCarried, weights } = report;
  const choices = Object.entries(options).map(([name, value]) => `${name} ${value}`);
  const size = ({ bytes, bitsPerWeight }: ConversionReport["before"]) =>
    `${formatBytes(bytes)} (${bitsPerWeight.toFixed(2)} bits per weight)`;
  const parts = [
    formatPairs([
      ["from", `${report.from}, ${size(before)}`],
      ["to", `${[report.to, ...choices].join(", ")}, ${size(after)}`],
    ]),
  ];
  if (details) parts.push(formatTable(columns, weights.map(rowOf)));
  parts.push(fidelityText(report));
  if (notCarried.length > 0) {
    const names = notCarried.slice(0, 8).map(({ name }) => printable(name));
    const more = notCarried.length > 8 ? ` and ${notCarried.length - 8} more` : "";
    parts.push(`Not carried over, as the architecture has no use for them: ${names.join(", ")}${more}.`);
  }
  parts.push(`Run it with: lowbit run ${/[^\w./@:+=-]/.test(output) ? JSON.stringify(output) : output}`);
  return parts.join("\n\n");
}

function fidelityText({ totals, weights }: ConversionReport): string {
  const line = (name: "exact" | "lossless" | "requantized", what: string): [string, string][] => {
    const { tensors, parameters } = totals[name];
    return tensors === 0 ? [] : [[name, `${tensors} tensors, ${formatCount(parameters)} weights: ${what}`]];
  };
  return formatPairs([
    ...line("exact", "bits moved"),
    ...line("lossless", "same values, stored in another way"),
    ...line("requantized", errorText(weights)),
  ]);
}

function errorText(weights: readonly WeightReport[]): string {
  const rounded = weights.filter(({ error }) => error !== undefined);
  const errorOf = (weight: WeightReport | undefined) => weight?.error?.relativeRms ?? 0;
  const worst = rounded.toSorted((a, b) => errorOf(b) - errorOf(a))[0];
  const middle = rounded.reduce((sum, weight) => sum + errorOf(weight), 0) / Math.max(1, rounded.length);
  return `relative error ${percent(middle)} on average, ${percent(errorOf(worst))} at worst (${worst?.role})`;
}

function percent(share: number): string {
  return `${(100 * share).toPrecision(2)} %`;
}

const columns: readonly Column[] = [
  { title: "role" },
  { title: "shape", align: "right" },
  { title: "from" },
  { title: "bits", align: "right" },
  { title: "to" },
  { title: "bits", align: "right" },
  { title: "fidelity" },
  { title: "error", align: "right" },
  { title: "largest", align: "right" },
];

function rowOf({ role, shape, before, after, fidelity, error }: WeightReport): string[] {
  return [
    role,
    shape.join(" × "),
    printable(before.type),
    before.bitsPerWeight.toFixed(2),
    printable(after.type),
    after.bitsPerWeight.toFixed(2),
    fidelity,
    error === undefined ? "-" : percent(error.relativeRms),
    error === undefined ? "-" : error.maxAbs.toPrecision(3),
  ];
}
