import type { JsonValue } from "@lowbit/core";
import { compilePattern } from "@lowbit/packing";
import { fail, invalid, type Metadata, member } from "./modules.ts";

/** How the weights of one config group are quantized. */
export interface Scheme {
  /** The group's own, else the checkpoint's; undefined where that is "mixed-precision" or none. */
  readonly format: string | undefined;
  readonly type: "int" | "float";
  readonly bits: number;
  readonly strategy: "tensor" | "channel" | "group" | "tensor_group" | "block";
  readonly group: number | undefined;
  readonly block: readonly [rows: number, columns: number] | undefined;
  readonly symmetric: boolean;
}

export interface Configuration {
  /** Throws invalid-config if no group names the module. */
  schemeOf(module: string): Scheme;
  ignored(module: string): boolean;
  readonly metadata: Metadata;
}

const formats = new Set([
  "dense",
  "pack-quantized",
  "int-quantized",
  "float-quantized",
  "naive-quantized",
  "nvfp4-pack-quantized",
  "mxfp4-pack-quantized",
  "mxfp8-quantized",
  "mixed-precision",
]);
const strategies = ["tensor", "channel", "group", "tensor_group", "block"] as const;

type Target = (module: string) => boolean;

/** The `quantization_config` of compressed-tensors. Throws invalid-config, unsupported-variant. */
export function readConfiguration(config: JsonValue | undefined): Configuration {
  if (!(config instanceof Map))
    throw invalid("there is no quantization_config, which says how modules are packed");
  const format = readFormat(config.get("format"));
  const sparsity = member(config, "sparsity_config", "format");
  if (sparsity !== undefined && sparsity !== "dense") throw variant(sparsity);
  const transforms = member(config, "transform_config", "config_groups");
  if (transforms instanceof Map && transforms.size > 0)
    throw variant("transform_config (rotated activations)");
  const groups = member(config, "config_groups");
  if (!(groups instanceof Map)) throw invalid('quantization_config has no object "config_groups"');
  const named: { match: Target; scheme: Scheme }[] = [];
  const patterns: typeof named = [];
  const byClass: { name: string; scheme: Scheme }[] = [];
  for (const [name, group] of groups) {
    if (!(group instanceof Map)) throw invalid(`config group ${name} is no object`);
    const weights = group.get("weights") ?? undefined;
    if (weights === undefined) continue;
    const scheme = readScheme(name, weights, readFormat(group.get("format")) ?? format);
    for (const target of strings(group.get("targets"), `targets of ${name}`)) {
      if (target.startsWith("re:")) {
        patterns.push({ match: compilePattern(target.slice(3)), scheme });
      } else if (/^[A-Z]\w*$/.test(target)) byClass.push({ name: target, scheme });
      else named.push({ match: (module) => module === target, scheme });
    }
  }
  const ignore = strings(config.get("ignore") ?? [], "ignore").map(
    (text): Target => (text.startsWith("re:") ? compilePattern(text.slice(3)) : (module) => module === text),
  );
  return {
    metadata: describe(config, format, groups.size),
    ignored: (module) => ignore.some((covers) => covers(module)),
    schemeOf(module) {
      const found =
        [...named, ...patterns].find(({ match }) => match(module))?.scheme ?? classScheme(module, byClass);
      if (found) return found;
      throw invalid(`module ${module} is packed, but no config group has it among its targets`);
    },
  };
}

/** Names of tensors do not tell a module's class; an embedding's name does, and everything else counts as linear. */
function classScheme(
  module: string,
  groups: readonly { name: string; scheme: Scheme }[],
): Scheme | undefined {
  const own = /(^|\.)(embed_tokens|wte|embed_in)$/.test(module) ? "Embedding" : "Linear";
  const exact = groups.find(({ name }) => name === own);
  const others = groups.filter(({ name }) => name !== "Linear" && name !== "Embedding");
  return exact?.scheme ?? (others.length === 1 ? others[0]!.scheme : undefined);
}

function readScheme(name: string, weights: JsonValue, format: string | undefined): Scheme {
  const bits = member(weights, "num_bits") ?? 8;
  const type = member(weights, "type") ?? "int";
  if (type !== "int" && type !== "float")
    throw invalid(`config group ${name}: type is ${JSON.stringify(type)}`);
  if (!isSize(bits)) throw invalid(`config group ${name}: num_bits is ${JSON.stringify(bits)}`);
  const size = member(weights, "group_size");
  if (size !== undefined && size !== -1 && !isSize(size)) {
    throw invalid(`config group ${name}: group_size is ${JSON.stringify(size)}`);
  }
  const group = size === -1 ? undefined : size;
  const declared =
    member(weights, "strategy") ??
    (size === undefined ? "tensor" : group === undefined ? "channel" : "group");
  const strategy = strategies.find((known) => known === declared);
  if (!strategy) throw invalid(`config group ${name}: strategy is ${JSON.stringify(declared)}`);
  if (strategy.endsWith("group") && group === undefined)
    throw invalid(`config group ${name} has no group_size`);
  const symmetric = member(weights, "symmetric") ?? true;
  if (typeof symmetric !== "boolean")
    throw invalid(`config group ${name}: symmetric is ${JSON.stringify(symmetric)}`);
  if (member(weights, "dynamic") === true)
    throw invalid(`config group ${name} quantizes weights dynamically`);
  const block = member(weights, "block_structure");
  return {
    format: format === "mixed-precision" ? undefined : format,
    type,
    bits,
    strategy,
    group: strategy.endsWith("group") ? group : undefined,
    block: strategy === "block" ? readBlock(block, `config group ${name}: block_structure`) : undefined,
    symmetric,
  };
}

/** [128, 128], or "128x128" in older files. */
export function readBlock(value: JsonValue | undefined, what: string): readonly [number, number] {
  const sizes = typeof value === "string" ? value.split("x").map(Number) : Array.isArray(value) ? value : [];
  const [rows, columns] = sizes;
  if (sizes.length === 2 && isSize(rows) && isSize(columns)) return [rows, columns];
  throw invalid(`${what} is not two sizes`);
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 1;
}

function readFormat(value: JsonValue | undefined): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === "string" && formats.has(value)) return value;
  throw variant(value);
}

function variant(value: JsonValue): Error {
  const what = typeof value === "string" ? value : JSON.stringify(value);
  return fail(
    "unsupported-variant",
    `this checkpoint is packed as ${what}, which is not read`,
    "format-unsupported",
    `Known are ${[...formats].join(", ")}.`,
  );
}

function strings(value: JsonValue | undefined, what: string): readonly string[] {
  const list = Array.isArray(value) ? value : undefined;
  if (list?.every((item) => typeof item === "string")) return list as readonly string[];
  throw invalid(`${what} of quantization_config is no list of names`);
}

function describe(config: JsonValue, format: string | undefined, groups: number): Metadata {
  const metadata: Metadata = new Map();
  if (format !== undefined) metadata.set("format", format);
  const version = member(config, "version");
  if (typeof version === "string") metadata.set("version", version);
  metadata.set("config groups", groups);
  if (member(config, "kv_cache_scheme") !== undefined) {
    metadata.set("cache", "declared as quantized; kept in the engine's own type");
  }
  return metadata;
}
