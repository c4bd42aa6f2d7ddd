/**
 * How the checkpoints of a family name their modules and lay out their weights, as a table from canonical role to module. Readers
 * go through it one way, writers the other.
 */
export interface WeightNames {
  /** Where the body's names may begin, and the head's name then; the customary one first. */
  readonly roots: readonly NameRoot[];
  /** Between root and layer number. */
  readonly layers: string;
  /** Role → module behind the root. */
  readonly body: Readonly<Record<string, string>>;
  /** Role inside a layer → module behind "layers.N."; an expert's number is "*". Of several names the first is written. */
  readonly layer: Readonly<Record<string, string | readonly string[]>>;
  /** The rows of attn.q and attn.k pair dimensions (i, i + d/2); canonical ones are reordered to pair (2i, 2i + 1). */
  readonly halvesToAdjacent?: boolean;
  /** Stored norm weights plus this are the canonical ones (gemma: 1). */
  readonly normOffset?: number;
  /** Roles inside a layer whose plain weights are stored [in, out] (GPT-2's Conv1D). */
  readonly transposed?: readonly string[];
}

export interface NameRoot {
  readonly body: string;
  readonly head: string;
}

/** Where one weight lies. */
export interface ModuleRole {
  readonly role: string;
  /** Number of the expert, for roles that stack them. */
  readonly expert?: number;
}

/** Causal models, bare bodies (embedders), and language models inside of multimodal ones, in their older and newer order. */
const roots: readonly NameRoot[] = [
  { body: "model.", head: "lm_head" },
  { body: "", head: "lm_head" },
  { body: "language_model.model.", head: "language_model.lm_head" },
  { body: "model.language_model.", head: "lm_head" },
];

const body = { embed: "embed_tokens", norm: "norm" };

const attention = {
  "attn.norm": "input_layernorm",
  "attn.q": "self_attn.q_proj",
  "attn.k": "self_attn.k_proj",
  "attn.v": "self_attn.v_proj",
  "attn.o": "self_attn.o_proj",
};

const headNorms = { "attn.qNorm": "self_attn.q_norm", "attn.kNorm": "self_attn.k_norm" };

const feedForward = {
  "ffn.norm": "post_attention_layernorm",
  "ffn.gate": "mlp.gate_proj",
  "ffn.up": "mlp.up_proj",
  "ffn.down": "mlp.down_proj",
};

const mixture = {
  "ffn.norm": "post_attention_layernorm",
  "ffn.router": "mlp.gate",
  "ffn.experts.gate": "mlp.experts.*.gate_proj",
  "ffn.experts.up": "mlp.experts.*.up_proj",
  "ffn.experts.down": "mlp.experts.*.down_proj",
};

const postNorms = {
  "attn.postNorm": "post_attention_layernorm",
  "ffn.norm": "pre_feedforward_layernorm",
  "ffn.postNorm": "post_feedforward_layernorm",
};

const plain: WeightNames = { roots, layers: "layers.", body, layer: { ...attention, ...feedForward } };
const gemma: WeightNames = { ...plain, normOffset: 1 };
const gemma2: WeightNames = { ...gemma, layer: { ...plain.layer, ...postNorms } };

/** Families that name or lay out their weights in their own way. */
export type NamedFamily =
  | "llama"
  | "mixtral"
  | "qwen2"
  | "qwen2Moe"
  | "qwen3"
  | "qwen3Moe"
  | "gemma"
  | "gemma2"
  | "gemma3"
  | "phi3"
  | "gpt2"
  | "bitnet";

export const weightNames: Readonly<Record<NamedFamily, WeightNames>> = {
  llama: { ...plain, halvesToAdjacent: true },
  mixtral: {
    ...plain,
    halvesToAdjacent: true,
    layer: {
      ...attention,
      "ffn.norm": "post_attention_layernorm",
      "ffn.router": "block_sparse_moe.gate",
      "ffn.experts.gate": "block_sparse_moe.experts.*.w1",
      "ffn.experts.up": "block_sparse_moe.experts.*.w3",
      "ffn.experts.down": "block_sparse_moe.experts.*.w2",
    },
  },
  qwen2: plain,
  qwen2Moe: {
    ...plain,
    layer: {
      ...attention,
      ...mixture,
      "ffn.shared.router": "mlp.shared_expert_gate",
      "ffn.shared.gate": "mlp.shared_expert.gate_proj",
      "ffn.shared.up": "mlp.shared_expert.up_proj",
      "ffn.shared.down": "mlp.shared_expert.down_proj",
    },
  },
  qwen3: { ...plain, layer: { ...plain.layer, ...headNorms } },
  qwen3Moe: { ...plain, layer: { ...attention, ...headNorms, ...mixture } },
  gemma,
  gemma2,
  gemma3: { ...gemma2, layer: { ...gemma2.layer, ...headNorms } },
  phi3: {
    ...plain,
    layer: {
      "attn.norm": "input_layernorm",
      "attn.qkv": "self_attn.qkv_proj",
      "attn.o": "self_attn.o_proj",
      "ffn.norm": "post_attention_layernorm",
      "ffn.up": "mlp.gate_up_proj",
      "ffn.down": "mlp.down_proj",
    },
  },
  gpt2: {
    roots: [
      { body: "transformer.", head: "lm_head" },
      { body: "", head: "lm_head" },
    ],
    layers: "h.",
    body: { embed: "wte", "embed.position": "wpe", norm: "ln_f" },
    layer: {
      "attn.norm": "ln_1",
      "attn.qkv": "attn.c_attn",
      "attn.o": "attn.c_proj",
      "ffn.norm": "ln_2",
      "ffn.up": "mlp.c_fc",
      "ffn.down": "mlp.c_proj",
    },
    transposed: ["attn.qkv", "attn.o", "ffn.up", "ffn.down"],
  },
  bitnet: {
    ...plain,
    layer: {
      ...plain.layer,
      "attn.subNorm": ["self_attn.attn_sub_norm", "self_attn.inner_attn_ln"],
      "ffn.subNorm": ["mlp.ffn_sub_norm", "mlp.ffn_layernorm"],
    },
  },
};

const layerRole = /^layers\.(\d+)\.(.+)$/;

/**
 * The module that holds a role: "layers.3.attn.q" is "model.layers.3.self_attn.q_proj". Of stacked experts the given one's;
 * "*" stands for its number where none is given. Undefined for roles that the family has no module for.
 */
export function moduleName(
  { layers, body, layer }: WeightNames,
  role: string,
  expert?: number,
  root: NameRoot = roots[0] as NameRoot,
): string | undefined {
  if (role === "head") return root.head;
  const match = layerRole.exec(role);
  const table: WeightNames["layer"] = match === null ? body : layer;
  const key = match?.[2] ?? role;
  if (!Object.hasOwn(table, key)) return undefined;
  const name = namesOf(table[key])[0] ?? "";
  const prefix = match === null ? root.body : `${root.body}${layers}${match[1]}.`;
  return prefix + (expert === undefined ? name : name.replace("*", String(expert)));
}

/** The reverse for one root: what a module holds, or undefined. */
export function roleFinder(names: WeightNames, root: NameRoot): (module: string) => ModuleRole | undefined {
  const inverse = (table: WeightNames["layer"]): ReadonlyMap<string, string> =>
    new Map(Object.entries(table).flatMap(([role, found]) => namesOf(found).map((name) => [name, role])));
  const bodyRoles = inverse(names.body);
  const layerRoles = inverse(names.layer);
  const layerPrefix = root.body + names.layers;
  return (module) => {
    if (module === root.head) return { role: "head" };
    if (!module.startsWith(root.body)) return undefined;
    const match = module.startsWith(layerPrefix)
      ? /^(0|[1-9]\d{0,3})\.(.+)$/.exec(module.slice(layerPrefix.length))
      : null;
    if (match === null) {
      const role = bodyRoles.get(module.slice(root.body.length));
      return role === undefined ? undefined : { role };
    }
    const [, layer, inner = ""] = match;
    const numbered = /\.experts\.(0|[1-9]\d{0,3})\./.exec(inner);
    const role = layerRoles.get(numbered === null ? inner : inner.replace(numbered[0], ".experts.*."));
    if (role === undefined) return undefined;
    const full = `layers.${layer}.${role}`;
    return numbered === null ? { role: full } : { role: full, expert: Number(numbered[1]) };
  };
}

/** The root that a checkpoint uses: the first whose embedding it has, else the customary one. */
export function rootOf(names: WeightNames, hasModule: (module: string) => boolean): NameRoot {
  const found = names.roots.find((root) => hasModule(root.body + names.body.embed));
  return found ?? (names.roots[0] as NameRoot);
}

/** Does the role name a norm's weight? */
export function isNorm(role: string): boolean {
  return /(^|\.)(norm|[a-z]+Norm)$/.test(role);
}

/** The role inside its layer: "attn.q". */
export function innerRole(role: string): string {
  return layerRole.exec(role)?.[2] ?? role;
}

function namesOf(names: string | readonly string[] | undefined): readonly string[] {
  return typeof names === "string" ? [names] : (names ?? []);
}
