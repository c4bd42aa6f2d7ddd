import { Command } from "commander";
import { type InspectedTensor, type Inspection, type MemoryPlan, memoryPresets } from "lowbit";
import { type Column, formatBytes, formatCount, formatPairs, formatTable, printable } from "../format.ts";
import { type Io, writeJson } from "../io.ts";
import { inspectModel, interruptible } from "../model.ts";
import { addLoadOptions, type LoadFlags } from "../options.ts";

interface InspectFlags extends LoadFlags {
  readonly json?: boolean;
  readonly metadata?: boolean;
}

/** Text of a model file on one line of the terminal. */
const maxTextLength = 100;

export function inspectCommand(io: Io): Command {
  const command = new Command("inspect")
    .description("what a model is and what it will take, without reading its weights")
    .argument("[model]", "file, folder, URL or hf:org/repository of a model (default: pico)")
    .option("--metadata", "list the file's own metadata too");
  return addLoadOptions(command)
    .option("--json", "print one JSON object")
    .action((model: string | undefined, flags: InspectFlags) => inspect(io, model, flags));
}

async function inspect(io: Io, model: string | undefined, flags: InspectFlags): Promise<void> {
  const { inspection, readBytes } = await interruptible(io, (signal) => inspectModel(model, flags, signal));
  if (flags.json) writeJson(io, jsonOf(inspection, readBytes));
  else io.stdout.write(`${textOf(inspection, readBytes, flags.metadata ?? false)}\n`);
}

function jsonOf(inspection: Inspection, readBytes: number): unknown {
  const { format, config, parameters, bitsPerWeight, backend, plan, fits, problems } = inspection;
  return {
    format,
    config,
    parameters,
    bitsPerWeight,
    backend,
    plan: plan && withoutWeights(plan),
    fits: Object.fromEntries(
      Object.entries(fits).map(([name, fit]) => [name, { ...fit, plan: withoutWeights(fit.plan) }]),
    ),
    problems: problems.map(({ code, reason, message }) => ({ code, reason, message })),
    metadata: Object.fromEntries([...inspection.metadata].map(([key, value]) => [key, summary(value)])),
    tensors: inspection.tensors.map((tensor) => ({
      name: tensor.name,
      role: tensor.role,
      shape: tensor.shape,
      type: tensor.type.name,
      bitsPerWeight: bitsOf(tensor),
      bytes: tensor.bytes,
      layout: tensor.layout,
      backendBytes: tensor.backendBytes,
    })),
    readBytes,
  };
}

function withoutWeights(plan: MemoryPlan): Omit<MemoryPlan, "weights"> {
  const { weights, ...rest } = plan;
  return rest;
}

/** Long arrays (vocabularies) are told by their length. */
function summary(value: unknown): unknown {
  const length = lengthOf(value);
  return length !== undefined && length > 16 ? { length } : value;
}

function lengthOf(value: unknown): number | undefined {
  if (typeof value !== "object" || value === null || !("length" in value)) return undefined;
  return typeof value.length === "number" ? value.length : undefined;
}

/** Bits that the file spends on a weight of this tensor. */
function bitsOf(tensor: InspectedTensor): number {
  return (8 * tensor.type.bytes) / tensor.type.block;
}

function textOf(inspection: Inspection, readBytes: number, metadata: boolean): string {
  const parts = [formatPairs(headline(inspection))];
  if (metadata) parts.push(formatPairs(metadataPairs(inspection.metadata)));
  parts.push(tensorTable(inspection.tensors));
  if (inspection.plan !== undefined) parts.push(planText(inspection.plan));
  if (Object.keys(inspection.fits).length > 0) parts.push(fitTable(inspection.fits));
  parts.push(`Read ${formatBytes(readBytes)} of the file.`);
  for (const problem of inspection.problems) parts.push(`It would not load: ${printable(problem.message)}`);
  return parts.join("\n\n");
}

/** How modules are packed, and what of it is worth knowing: "gptq, bits 4, group size 128". */
function packingOf(metadata: Inspection["metadata"]): string | undefined {
  const name = metadata.get("packing");
  if (name === undefined) return undefined;
  const prefix = "packing.";
  const details = [...metadata]
    .filter(([key]) => key.startsWith(prefix))
    .map(([key, value]) => `${key.slice(prefix.length)} ${String(value)}`);
  return printable([String(name), ...details].join("; "));
}

function headline({
  config,
  format,
  metadata,
  parameters,
  bitsPerWeight,
  backend,
}: Inspection): [string, string][] {
  const pairs: [string, string | undefined][] = [
    ["name", config?.name],
    ["format", format],
    ["packing", packingOf(metadata)],
    ["architecture", config?.architecture],
    ["parameters", `${formatCount(parameters)}, ${bitsPerWeight.toFixed(2)} bits each`],
    [
      "layers",
      config && `${config.layers}, ${config.embeddingSize} wide, feed-forward ${config.feedForwardSize}`,
    ],
    ["attention", config && attentionText(config)],
    ["experts", config?.experts && `${config.experts.count}, ${config.experts.used} for each token`],
    ["rope", config?.rope && ropeText(config.rope)],
    ["context", config && `${config.contextLength} tokens`],
    ["vocabulary", config && `${config.vocabularySize} tokens`],
    ["backend", backend && `${backend.name} (${backend.description})`],
  ];
  return pairs.flatMap(([name, value]) => (value === undefined ? [] : [[name, printable(value)]]));
}

type Config = NonNullable<Inspection["config"]>;

function attentionText(config: Config): string {
  const { heads, kvHeads, keySize, valueSize, slidingWindow } = config;
  const size = keySize === valueSize ? `${keySize}` : `${keySize} (keys) and ${valueSize} (values)`;
  const window = slidingWindow === undefined ? "" : `, window ${slidingWindow}`;
  return `${heads} heads, ${kvHeads} for keys and values, of ${size}${window}`;
}

function ropeText({ base, dimensions, scaling }: NonNullable<Config["rope"]>): string {
  return `base ${base}, ${dimensions} dimensions${scaling === undefined ? "" : `, scaling ${scaling.kind}`}`;
}

function metadataPairs(metadata: ReadonlyMap<string, unknown>): [string, string][] {
  return [...metadata].map(([key, value]) => {
    const length = lengthOf(value);
    const text = typeof value === "string" ? printable(value) : String(value);
    const shown = typeof value === "string" || length === undefined ? text : `array of ${length}`;
    return [printable(key), shown.length > maxTextLength ? `${shown.slice(0, maxTextLength - 1)}…` : shown];
  });
}

const columns: readonly Column[] = [
  { title: "tensor" },
  { title: "role" },
  { title: "shape", align: "right" },
  { title: "type" },
  { title: "bits", align: "right" },
  { title: "bytes", align: "right" },
  { title: "layout" },
];

function tensorTable(tensors: readonly InspectedTensor[]): string {
  const rows = tensors.map((tensor) => [
    printable(tensor.name),
    tensor.role ?? "-",
    tensor.shape.join(" × "),
    tensor.type.name,
    bitsOf(tensor).toFixed(2),
    formatBytes(tensor.bytes),
    tensor.layout ?? "-",
  ]);
  return formatTable(columns, rows);
}

const places: readonly Column[] = [
  { title: "place" },
  { title: "memory for a model", align: "right" },
  { title: "needs", align: "right" },
  { title: "context", align: "right" },
  { title: "cache" },
];

/** Where it would run, and with which context. */
function fitTable(fits: Inspection["fits"]): string {
  const rows = Object.entries(fits).map(([name, { limitBytes, plan }]) => [
    memoryPresets[name as keyof typeof memoryPresets]?.title ?? name,
    formatBytes(limitBytes),
    formatBytes(plan.requiredBytes),
    plan.fits ? `${plan.contextLength}` : "does not fit",
    plan.fits ? plan.kv.type : "-",
  ]);
  return formatTable(places, rows);
}

function planText(plan: MemoryPlan): string {
  return formatPairs([
    ["weights", formatBytes(plan.weightBytes)],
    ["key/value cache", `${formatBytes(plan.kvBytes)} (${plan.contextLength} tokens, ${plan.kv.type})`],
    ["activations", formatBytes(plan.activationBytes)],
    ["tokenizer", formatBytes(plan.hostBytes)],
    ["together", `${formatBytes(plan.requiredBytes)} of at most ${formatBytes(plan.limitBytes)}`],
    ["in host memory", `${formatBytes(plan.transferBytes)} at a time while loading`],
  ]);
}
