import type { PackedConfiguration, PackedDescription, PlainJson } from "@lowbit/core";
import type { GptqConfig } from "./config.ts";

export interface Settings {
  readonly bits: number;
  /** −1 for whole rows. */
  readonly group: number;
  readonly symmetric: boolean;
  readonly format: GptqConfig["format"];
}

/** What the writer tells of each module. */
interface Described {
  readonly bits: number;
  /** −1 for whole rows. */
  readonly group_size: number;
  readonly inputs: number;
}

/**
 * quantize_config.json of AutoGPTQ and GPTQModel, and the same for config.json. The bits and groups of most modules become those of the
 * model, and others overrides, as GPTQModel has them; only a model whose modules all are symmetric is.
 */
export function configuration(
  modules: ReadonlyMap<string, PackedDescription>,
  settings: Settings,
): PackedConfiguration {
  const all = [...modules.values()] as (PackedDescription & Described)[];
  const main = mostCommon(all) ?? { bits: settings.bits, group_size: settings.group };
  const dynamic: Record<string, PlainJson> = {};
  for (const [name, module] of modules as ReadonlyMap<string, PackedDescription & Described>) {
    const { bits, group_size, inputs } = module;
    // A group as wide as the rows may be given as −1 or by its size.
    const width = (size: number): number => (size === -1 ? inputs : size);
    if (bits === main.bits && width(group_size) === width(main.group_size)) continue;
    dynamic[`+:^${name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`] = { bits, group_size };
  }
  const quantization = {
    bits: main.bits,
    group_size: main.group_size,
    damp_percent: 0.01,
    desc_act: all.some(({ desc_act }) => desc_act === true),
    static_groups: false,
    sym: all.length === 0 ? settings.symmetric : all.every(({ sym }) => sym === true),
    lm_head: all.some(({ role }) => role === "head"),
    true_sequential: true,
    model_name_or_path: null,
    model_file_base_name: null,
    quant_method: "gptq",
    checkpoint_format: settings.format,
    ...(Object.keys(dynamic).length > 0 && { dynamic }),
  };
  return { quantization, files: { "quantize_config.json": quantization } };
}

function mostCommon(modules: readonly Described[]): Pick<Described, "bits" | "group_size"> | undefined {
  const counts = new Map<string, { count: number; module: Described }>();
  for (const module of modules) {
    const key = `${module.bits} ${module.group_size}`;
    counts.set(key, { count: (counts.get(key)?.count ?? 0) + 1, module });
  }
  return [...counts.values()].sort((a, b) => b.count - a.count)[0]?.module;
}
