import type { PackedModule, PackedModules, SafetensorsTensor } from "@lowbit/core";
import { safetensorsError } from "./errors.ts";
import type { HuggingFaceModel } from "./hugging-face-config.ts";
import { type ModuleRole, roleFinder, rootOf } from "./names.ts";
import { denseTypes } from "./weight-parts.ts";

/** What holds a role's values. */
export type Held =
  | { readonly kind: "plain"; readonly module: string; readonly tensor: SafetensorsTensor }
  | { readonly kind: "packed"; readonly module: string; readonly packed: PackedModule };

/** The file's tensors by what they are. */
export interface Contents {
  /** By role, and for experts by number: dense from 0 on. */
  readonly weights: ReadonlyMap<string, readonly Held[]>;
  /** Biases of plain modules and of norms, by their weight's role. */
  readonly biases: ReadonlyMap<string, SafetensorsTensor>;
  /** Tensors that stand for no role. */
  readonly others: readonly SafetensorsTensor[];
  /** Those of them that belong to a role's module, which cannot be read without them, by role. */
  readonly unclaimed: ReadonlyMap<string, readonly SafetensorsTensor[]>;
}

/** Sorts the tensors. A tied head that is stored as plain numbers is the embedding again, and is left out. */
export function sortContents(
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  packed: PackedModules | undefined,
  model: HuggingFaceModel,
  file: string,
): Contents {
  const modules = packed ? packedModules(tensors, packed) : new Map<string, PackedModule>();
  const claimed = new Set([...modules.values()].flatMap((module) => module.tensors));
  const { names } = model.family;
  const root = rootOf(names, (module) => tensors.has(`${module}.weight`) || modules.has(module));
  const find = roleFinder(names, root);
  const weights = new Map<string, Held[]>();
  const biases = new Map<string, SafetensorsTensor>();
  const others: SafetensorsTensor[] = [];
  const unclaimed = new Map<string, SafetensorsTensor[]>();
  const leave = (tensor: SafetensorsTensor): void => {
    others.push(tensor);
    const found = ownerOf(tensor.name, find);
    if (found === undefined || (model.tied && found.role === "head")) return;
    if (modules.has(found.module)) return;
    const list = unclaimed.get(found.role);
    if (list) list.push(tensor);
    else unclaimed.set(found.role, [tensor]);
  };

  const place = ({ role, expert }: ModuleRole, held: Held): void => {
    const list = weights.get(role) ?? [];
    weights.set(role, list);
    if (list[expert ?? 0] !== undefined) {
      throw safetensorsError(
        "file-corrupt",
        "duplicate",
        `${file}: ${list[expert ?? 0]?.module} and ${held.module} are the same weight.`,
      );
    }
    list[expert ?? 0] = held;
  };

  for (const [module, packed] of modules) {
    const found = find(module);
    if (found) place(found, { kind: "packed", module, packed });
    else others.push(...packed.tensors.flatMap((name) => tensors.get(name) ?? []));
  }
  for (const tensor of tensors.values()) {
    if (claimed.has(tensor.name)) continue;
    const match = /^(.*)\.(weight|bias)$/.exec(tensor.name);
    const found = match?.[1] === undefined ? undefined : find(match[1]);
    const module = match?.[1] ?? "";
    if (found === undefined || (model.tied && found.role === "head") || !denseTypes[tensor.dtype]) {
      leave(tensor);
    } else if (match?.[2] === "bias") biases.set(biasKey(found), tensor);
    else place(found, { kind: "plain", module, tensor });
  }
  for (const role of unclaimed.keys()) {
    for (const held of weights.get(role) ?? []) if (held?.kind === "plain") others.push(held.tensor);
    weights.delete(role);
  }
  for (const [key, tensor] of biases) {
    if (weights.has(key.replace(/#\d+$/, ""))) continue;
    others.push(tensor);
    biases.delete(key);
  }
  for (const [role, list] of weights) {
    const missing = Array.from<Held | undefined>(list).indexOf(undefined);
    if (missing >= 0) {
      const what = `${file} has expert ${list.length - 1} of ${role}, but not ${missing}.`;
      throw safetensorsError("file-corrupt", "missing-tensor", what);
    }
  }
  if (!weights.has("head") && !unclaimed.has("head") && !model.tied && weights.has("embed")) {
    throw safetensorsError(
      "file-corrupt",
      "missing-tensor",
      `${file} has no ${root.head}, and is not tied.`,
      {
        hint: 'Its config.json says or implies "tie_word_embeddings": false.',
      },
    );
  }
  return { weights, biases, others, unclaimed };
}

/** The module of a role that a tensor lies under: "lm_head.weight.absmax" belongs to "lm_head". */
function ownerOf(
  name: string,
  find: (module: string) => ModuleRole | undefined,
): { readonly role: string; readonly module: string } | undefined {
  let at = name.lastIndexOf(".");
  // No packing puts names deeper below a module.
  for (let cuts = 0; cuts < 4 && at > 0; cuts++, at = name.lastIndexOf(".", at - 1)) {
    const module = name.slice(0, at);
    const found = find(module);
    if (found) return { role: found.role, module };
  }
  return undefined;
}

export function biasKey({ role, expert }: ModuleRole): string {
  return expert === undefined ? role : `${role}#${expert}`;
}

/** The modules that a packing knows, found by cutting tensors' names. */
function packedModules(
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  packed: PackedModules,
): Map<string, PackedModule> {
  const found = new Map<string, PackedModule>();
  const seen = new Set<string>();
  for (const name of tensors.keys()) {
    // "x.qweight", "x.weight.absmax", "x.weight.quant_state.bitsandbytes__nf4", "x_blocks"
    let module = name;
    for (let cuts = 0; cuts < 4; cuts++) {
      const at = Math.max(module.lastIndexOf("."), module.lastIndexOf("_"));
      if (at < 0) break;
      module = module.slice(0, at);
      if (seen.has(module)) continue;
      seen.add(module);
      const described = packed.describe(module);
      if (described) found.set(module, described);
    }
  }
  return found;
}
