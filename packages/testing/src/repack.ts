import { readFileSync } from "node:fs";
import { join } from "node:path";
import { decodeDense, denseWeight, type PackedDescription, type PackingWriter } from "@lowbit/core";
import { type SafetensorsSource, writeSafetensors } from "@lowbit/packing";
import { packedCheckpoint, packedTensors } from "./packed.ts";

type Files = Readonly<Record<string, Uint8Array>>;

/**
 * A plain f16 model of a folder with its projections packed, and the same model with these projections as plain f32 of the same values:
 * both must compute the same.
 */
export async function repackModel(
  folder: string,
  writer: PackingWriter,
): Promise<{ readonly packed: Files; readonly plain: Files; readonly modules: number }> {
  const tensors = await packedTensors(await packedCheckpoint(join(folder, "model.safetensors")));
  const [packed, plain]: [SafetensorsSource[], SafetensorsSource[]] = [[], []];
  const described = new Map<string, PackedDescription>();
  const dense: string[] = [];
  for (const tensor of tensors) {
    const [, module] = /^(.*(?:_proj|lm_head))\.weight$/.exec(tensor.name) ?? [];
    const [out = 0, columns = 0] = tensor.shape;
    const role = module?.endsWith("lm_head") ? "head" : "layers.0.attn.q";
    const values = new Float32Array(tensor.data.length / 2);
    decodeDense("f16", tensor.data, values);
    const weight = module === undefined ? undefined : writer.quantize(values, { out, in: columns, role });
    if (module !== undefined && weight) {
      packed.push(...writer.pack(module, weight));
      plain.push({ ...tensor, dtype: "F32", data: new Uint8Array(denseWeight(weight).buffer) });
      const types = weight.segments.map(({ type }) => type.name);
      described.set(module, { role, types, ...writer.describe?.(weight) });
    } else {
      if (module !== undefined) dense.push(module);
      packed.push(tensor);
      plain.push(tensor);
    }
  }
  const { quantization, files = {} } = writer.configuration(described, dense);
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as object;
  const json = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
  const more = Object.entries(files).map(([name, value]) => [name, json(value)] as const);
  return {
    modules: described.size,
    packed: {
      "config.json": json({ ...config, quantization_config: quantization }),
      "model.safetensors": await bytesOf(packed),
      ...Object.fromEntries(more),
    },
    plain: { "config.json": json(config), "model.safetensors": await bytesOf(plain) },
  };
}

async function bytesOf(tensors: readonly SafetensorsSource[]): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  await writeSafetensors({ write: (bytes) => void parts.push(bytes) }, tensors);
  return new Uint8Array(Buffer.concat(parts));
}
