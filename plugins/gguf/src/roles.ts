/** Names in a file, without ".weight", and the canonical roles of core's `WeightSpec`. */
const globalRoles: Readonly<Record<string, string>> = {
  token_embd: "embed",
  position_embd: "embed.position",
  token_embd_norm: "embed.norm",
  output_norm: "norm",
  output: "head",
  rope_freqs: "rope.factors",
  rope_factors_long: "rope.factors.long",
  rope_factors_short: "rope.factors.short",
};

/** The same behind "blk.N.". BERT's two norms stand behind the block's halves, where others have post-norms. */
const layerRoles: Readonly<Record<string, string>> = {
  attn_norm: "attn.norm",
  attn_q: "attn.q",
  attn_k: "attn.k",
  attn_v: "attn.v",
  attn_qkv: "attn.qkv",
  attn_output: "attn.o",
  attn_q_norm: "attn.qNorm",
  attn_k_norm: "attn.kNorm",
  attn_sub_norm: "attn.subNorm",
  post_attention_norm: "attn.postNorm",
  attn_output_norm: "attn.postNorm",
  ffn_norm: "ffn.norm",
  ffn_gate: "ffn.gate",
  ffn_up: "ffn.up",
  ffn_down: "ffn.down",
  ffn_sub_norm: "ffn.subNorm",
  post_ffw_norm: "ffn.postNorm",
  layer_output_norm: "ffn.postNorm",
  ffn_gate_inp: "ffn.router",
  ffn_gate_exps: "ffn.experts.gate",
  ffn_up_exps: "ffn.experts.up",
  ffn_down_exps: "ffn.experts.down",
  ffn_gate_shexp: "ffn.shared.gate",
  ffn_up_shexp: "ffn.shared.up",
  ffn_down_shexp: "ffn.shared.down",
  ffn_gate_inp_shexp: "ffn.shared.router",
};

/**
 * The canonical role of a tensor: "blk.3.attn_q.weight" is "layers.3.attn.q". ".bias" and ".scale" tensors have their
 * weight's role with that ending. Undefined for names that have none.
 */
export function roleOf(name: string): string | undefined {
  const match = /^(?:blk\.(\d{1,4})\.)?([a-z_]+)\.(weight|bias|scale)$/.exec(name);
  if (match === null) return undefined;
  const [, layer, stem = "", kind = ""] = match;
  const table = layer === undefined ? globalRoles : layerRoles;
  if (!Object.hasOwn(table, stem)) return undefined;
  const prefix = layer === undefined ? "" : `layers.${Number(layer)}.`;
  return `${prefix}${table[stem]}${kind === "weight" ? "" : `.${kind}`}`;
}

/** The reverse, for writers. Undefined for roles that GGUF has no name for. */
export function tensorName(role: string): string | undefined {
  const match = /^(?:layers\.(\d+)\.)?(.+?)(?:\.(bias|scale))?$/.exec(role);
  if (match === null) return undefined;
  const [, layer, stem, kind = "weight"] = match;
  const table = Object.entries(layer === undefined ? globalRoles : layerRoles);
  const found = table.find(([, canonical]) => canonical === stem)?.[0];
  if (found === undefined) return undefined;
  return `${layer === undefined ? "" : `blk.${layer}.`}${found}.${kind}`;
}

/** Mixtral files from before experts were stacked: "blk.0.ffn_gate.3.weight". */
export function isSplitExpert(name: string): boolean {
  return /^blk\.\d+\.ffn_(gate|up|down)\.\d+\.weight$/.test(name);
}
