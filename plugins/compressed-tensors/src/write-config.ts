import type { PackedDescription, PlainJson } from "@lowbit/core";

type Arguments = { readonly [key: string]: PlainJson };

interface Group {
  readonly format: string;
  readonly weights: Arguments;
  readonly activations: Arguments | null;
  readonly modules: string[];
}

/**
 * The `quantization_config` for these modules. Of a description it reads the names of the types, and `in` and `permuted` where there.
 * Modules packed like most others are targeted as "Linear", the rest by name.
 */
export function describeSchemes(
  modules: ReadonlyMap<string, PackedDescription>,
  dense: readonly string[],
  integers: "bytes" | "words",
): { readonly [key: string]: PlainJson } {
  const groups = new Map<string, Group>();
  for (const [name, description] of modules) {
    const group = groupOf(description, integers);
    const key = JSON.stringify(group);
    const known = groups.get(key);
    if (known) known.modules.push(name);
    else groups.set(key, { ...group, modules: [name] });
  }
  const sorted = [...groups.values()].sort((a, b) => b.modules.length - a.modules.length);
  const formats = new Set(sorted.map(({ format }) => format));
  const config_groups = Object.fromEntries(
    sorted.map(({ format, weights, activations, modules }, i) => [
      `group_${i}`,
      {
        targets: i === 0 ? ["Linear"] : modules,
        weights,
        input_activations: activations,
        output_activations: null,
        format,
      },
    ]),
  );
  return {
    quant_method: "compressed-tensors",
    format: formats.size > 1 ? "mixed-precision" : (sorted[0]?.format ?? "dense"),
    quantization_status: "compressed",
    config_groups,
    ignore: dense.filter((name) => !/norm|embed/.test(name)),
    kv_cache_scheme: null,
    global_compression_ratio: null,
  };
}

function groupOf(description: PackedDescription, integers: "bytes" | "words"): Omit<Group, "modules"> {
  const [type = ""] = description.types;
  const common = { symmetric: true, dynamic: false, actorder: null, block_structure: null, group_size: null };
  const tokens = { num_bits: 8, strategy: "token", dynamic: true, symmetric: true };
  const grid = /^int(\d) g(\d+) \S+ (\S+)/.exec(type);
  if (grid) {
    const [, bits, group, zero] = grid;
    // Without `in`, whole rows are groups as wide as they are, which is the same.
    const isRow = Number(group) === description.in;
    const weights = {
      ...common,
      num_bits: Number(bits),
      type: "int",
      symmetric: zero !== "z-integer",
      strategy: isRow ? "channel" : "group",
      group_size: isRow ? null : Number(group),
      actorder: description.permuted === true ? "group" : null,
    };
    const isBytes = integers === "bytes";
    const activations = isBytes && Number(bits) === 8 && isRow ? { ...tokens, type: "int" } : null;
    return { format: isBytes ? "int-quantized" : "pack-quantized", weights, activations };
  }
  const float8 = { ...common, num_bits: 8, type: "float" };
  if (type === "F8_E4M3") {
    const activations = { ...tokens, type: "float" };
    return { format: "float-quantized", weights: { ...float8, strategy: "channel" }, activations };
  }
  if (/^F8_E4M3 g\d+ e8m0/.test(type)) {
    const weights = { ...float8, strategy: "group", group_size: 32 };
    return { format: "mxfp8-quantized", weights, activations: null };
  }
  if (type.startsWith("F8_E4M3 ")) {
    const weights = { ...float8, strategy: "block", block_structure: [128, 128] };
    const activations = { ...tokens, type: "float", strategy: "group", group_size: 128 };
    return { format: "float-quantized", weights, activations };
  }
  const float4 = { ...common, num_bits: 4, type: "float" };
  if (type === "MXFP4") {
    const weights = { ...float4, strategy: "group", group_size: 32 };
    return { format: "mxfp4-pack-quantized", weights, activations: null };
  }
  const weights = { ...float4, strategy: "tensor_group", group_size: 16 };
  return { format: "nvfp4-pack-quantized", weights, activations: null };
}
