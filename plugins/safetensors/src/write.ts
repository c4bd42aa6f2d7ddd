import {
  type CheckpointSource,
  type CheckpointWriter,
  type LinearWeight,
  rowsOf,
  type StoredTensor,
  type StoredWeight,
  type WriterOptions,
} from "@lowbit/core";
import { safetensorsError } from "./errors.ts";
import { innerRole, isNorm, moduleName, type NameRoot, type WeightNames } from "./names.ts";
import { pairingOrder, reorderRows, transpose, unstackExpert } from "./weight-parts.ts";
import { type FamilyConfig, familyOf } from "./write/config-json.ts";
import { type DenseDtype, denseMatrix, encodeDense, firstHolding } from "./write/dense.ts";
import { finishFolder } from "./write/folder.ts";
import { type Note, noteJson } from "./write/note.ts";
import { packParts } from "./write/packed.ts";
import { tokenizerFiles } from "./write/tokenizer-files.ts";

const dtypes: Readonly<Record<string, DenseDtype>> = { f16: "F16", bf16: "BF16", f32: "F32" };
/** Roles inside of layers that packings may pack: every linear but those that choose experts. */
const packable = /^(attn|ffn|ffn\.experts|ffn\.shared)\.(q|k|v|qkv|o|gate|up|down)$/;
const defaultFileBytes = 5_000_000_000;

/**
 * Writes a folder as transformers has it. `type` "f16", "bf16" or "f32" rounds matrices; without it each weight keeps its values, as it is
 * or in the smallest of the three that holds them. With a packing the linear layers of the blocks, and a head if it takes heads, are
 * packed, and the rest is as without.
 */
export async function writeHuggingFace(
  source: CheckpointSource,
  options: WriterOptions = {},
): Promise<CheckpointWriter> {
  const wanted = dtypeOf(options.type);
  const maxFileBytes = options.maxFileBytes ?? defaultFileBytes;
  if (!(maxFileBytes >= 1)) {
    throw safetensorsError(
      "bad-argument",
      "max-file-bytes",
      `Files of ${maxFileBytes} bytes are not possible.`,
    );
  }
  const family = familyOf(source.config);
  const files = await tokenizerFiles(source);
  const stores = new WeightStore(source, family, wanted, options.packing?.writer);
  return {
    output: "folder",
    store: (role, weight) => stores.matrix(role, weight),
    storeVector: (role, values) => stores.vector(role, values),
    finish: (folder, staged, signal) =>
      finishFolder(
        {
          source,
          family,
          files,
          maxFileBytes,
          packing: options.packing?.writer,
          tokenizerProbe: options.tokenizerProbe,
        },
        folder,
        staged,
        signal,
      ),
  };
}

function dtypeOf(type: string | undefined): DenseDtype | undefined {
  if (type === undefined) return undefined;
  const found = Object.hasOwn(dtypes, type.toLowerCase()) ? dtypes[type.toLowerCase()] : undefined;
  if (found) return found;
  throw safetensorsError(
    "bad-argument",
    "type",
    `There is no type ${JSON.stringify(type)} of plain weights.`,
    {
      hint: `Known are ${Object.keys(dtypes).join(", ")}; quantized weights are written by converting to a packing such as gptq.`,
    },
  );
}

/** The dtypes that values are tried in: the source's own kind first. */
function preferences({ metadata }: CheckpointSource): readonly DenseDtype[] {
  const named = metadata.get("torch_dtype") ?? metadata.get("dtype");
  const kind = named ?? { 0: "float32", 32: "bfloat16" }[metadata.get("general.file_type") as number];
  if (kind === "float32") return ["F32"];
  return kind === "bfloat16" ? ["BF16", "F16", "F32"] : ["F16", "BF16", "F32"];
}

class WeightStore {
  readonly #config: CheckpointSource["config"];
  readonly #names: WeightNames;
  readonly #root: NameRoot;
  readonly #wanted: DenseDtype | undefined;
  readonly #order: readonly DenseDtype[];
  readonly #packing: NonNullable<WriterOptions["packing"]>["writer"] | undefined;

  constructor(
    source: CheckpointSource,
    family: FamilyConfig,
    wanted: DenseDtype | undefined,
    packing: NonNullable<WriterOptions["packing"]>["writer"] | undefined,
  ) {
    this.#config = source.config;
    this.#names = family.names;
    this.#root = family.names.roots[0] as NameRoot;
    this.#wanted = wanted;
    this.#order = preferences(source);
    this.#packing = packing;
  }

  matrix(role: string, weight: LinearWeight): StoredWeight {
    const isStack = role.includes(".experts.");
    const experts = isStack ? (weight.experts ?? 1) : 1;
    const modules = Array.from({ length: experts }, (_, e) => this.#module(role, isStack ? e : undefined));
    const inner = innerRole(role);
    if (this.#packing && (packable.test(inner) || role === "head")) {
      const rotation = this.#rotation(role, weight);
      const ordered = rotation ? reorderRows(weight, rotation.toFile) : weight;
      const parts = isStack ? modules.map((_, e) => unstackExpert(ordered, e)) : [ordered];
      const packed = packParts(this.#packing, parts, { role, modules, stacked: isStack });
      if (packed) {
        const { tensors, moved } = packed;
        const canonical = rotation ? reorderRows(packed.weight, rotation.toRole) : packed.weight;
        return { tensors, weight: canonical, moved, note: noteJson({ packed: packed.modules }) };
      }
    }
    return this.#plain(role, weight, modules);
  }

  vector(role: string, values: Float32Array): StoredWeight {
    if (role.startsWith("rope.factors")) {
      return { tensors: [], weight: values, moved: true, note: noteJson({ rope: { [role]: [...values] } }) };
    }
    const isBias = role.endsWith(".bias");
    const module = this.#module(isBias ? role.slice(0, -".bias".length) : role);
    const offset = isNorm(role) ? (this.#names.normOffset ?? 0) : 0;
    const stored = offset === 0 ? values : values.map((value) => value - offset);
    const read = offset === 0 ? values : stored.map((value) => value + offset);
    return {
      tensors: [this.#vectorTensor(`${module}.${isBias ? "bias" : "weight"}`, stored)],
      weight: read,
      moved: read.every((value, i) => Object.is(value, values[i])),
    };
  }

  #module(role: string, expert?: number): string {
    const module = moduleName(this.#names, role, expert, this.#root);
    if (module !== undefined) return module;
    throw safetensorsError(
      "format-unsupported",
      "unknown-role",
      `Hugging Face checkpoints of ${this.#config.architecture} have no module for ${JSON.stringify(role)}.`,
    );
  }

  /** Where the file's rows are in another order. */
  #rotation(role: string, { out }: LinearWeight): { toFile: Int32Array; toRole: Int32Array } | undefined {
    const inner = innerRole(role);
    const turns = inner === "attn.q" || inner === "attn.k";
    if (!turns || !this.#names.halvesToAdjacent || this.#config.rope?.pairing !== "adjacent")
      return undefined;
    const { keySize } = this.#config;
    return {
      toFile: pairingOrder(out, keySize, "to-halves"),
      toRole: pairingOrder(out, keySize, "to-adjacent"),
    };
  }

  #plain(role: string, weight: LinearWeight, modules: readonly string[]): StoredWeight {
    const { out, in: width, experts, bias } = weight;
    const { dtype, type, blocks, moved } = denseMatrix(weight, this.#wanted, this.#order, role);
    const stored: LinearWeight = {
      out,
      in: width,
      ...(experts !== undefined && { experts }),
      ...(bias && { bias }),
      segments: [{ type, from: 0, to: width, blocks }],
    };
    const rotation = this.#rotation(role, weight);
    const ordered = rotation ? reorderRows(stored, rotation.toFile) : stored;
    const all = ordered.segments[0]?.blocks ?? blocks;
    const rows = rowsOf(weight) / modules.length;
    const tensors = modules.flatMap((module, e): StoredTensor[] => {
      const perModule = all.length / modules.length;
      const own = all.subarray(e * perModule, (e + 1) * perModule);
      const turned = this.#names.transposed?.includes(innerRole(role));
      return [
        {
          name: `${module}.weight`,
          dtype,
          shape: turned ? [width, rows] : [rows, width],
          data: turned ? transpose(own, rows, width, type.bytes) : own,
        },
        ...(ordered.bias
          ? [this.#vectorTensor(`${module}.bias`, ordered.bias.subarray(e * rows, (e + 1) * rows))]
          : []),
      ];
    });
    return {
      tensors,
      weight: stored,
      moved,
      note: noteJson(this.#denseNote(role, modules)),
    };
  }

  /** Tables of embeddings are no linear layers. */
  #denseNote(role: string, modules: readonly string[]): Note {
    return role.startsWith("embed") ? {} : { dense: modules };
  }

  /** Vectors are never rounded: they are small, and what they scale is not. */
  #vectorTensor(name: string, values: Float32Array): StoredTensor {
    const order: readonly DenseDtype[] = this.#wanted ? [this.#wanted, "F32"] : this.#order;
    const dtype = firstHolding(order, () => [values]);
    return { name, dtype, shape: [values.length], data: encodeDense(dtype, values, name) };
  }
}
