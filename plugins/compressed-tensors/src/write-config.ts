import type { PackedDescription, PackedTensor, PlainJson } from "@lowbit/core";

export type Arguments = { readonly [key: string]: PlainJson };

/** What a config group says of its modules. */
export type Scheme = {
  readonly format: string;
  /** Over the defaults: symmetric, not dynamic, neither groups nor blocks. */
  readonly weights: Arguments;
  /** null: inputs stay floats. */
  readonly activations: Arguments | null;
};

/** A weight as it would be written. */
export interface WrittenForm {
  readonly scheme: Scheme;
  pack(module: string): PackedTensor[];
}

const defaults = { symmetric: true, dynamic: false, actorder: null, block_structure: null, group_size: null };

/** Inputs that the reference's runtimes quantize as they come, each token by itself. */
export const tokens: Arguments = { num_bits: 8, strategy: "token", dynamic: true, symmetric: true };

/** The `quantization_config` for described modules. Those packed like most are targeted as "Linear", the rest by name. */
export function describeSchemes(
  modules: ReadonlyMap<string, PackedDescription>,
  dense: readonly string[],
): { readonly [key: string]: PlainJson } {
  const groups = new Map<string, { scheme: Scheme; names: string[] }>();
  for (const [name, { scheme }] of modules) {
    const key = JSON.stringify(scheme);
    const known = groups.get(key);
    if (known) known.names.push(name);
    else groups.set(key, { scheme: scheme as Scheme, names: [name] });
  }
  const sorted = [...groups.values()].sort((a, b) => b.names.length - a.names.length);
  const formats = new Set(sorted.map(({ scheme }) => scheme.format));
  const config_groups = Object.fromEntries(
    sorted.map(({ scheme: { format, weights, activations }, names }, i) => [
      `group_${i}`,
      {
        targets: i === 0 ? ["Linear"] : names,
        weights: { ...defaults, ...weights },
        input_activations: activations,
        output_activations: null,
        format,
      },
    ]),
  );
  return {
    quant_method: "compressed-tensors",
    format: formats.size > 1 ? "mixed-precision" : (sorted[0]?.scheme.format ?? "dense"),
    quantization_status: "compressed",
    config_groups,
    ignore: dense.filter((name) => !/norm|embed/.test(name)),
    kv_cache_scheme: null,
    global_compression_ratio: null,
  };
}
