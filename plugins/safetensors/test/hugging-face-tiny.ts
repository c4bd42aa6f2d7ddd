import { type GgufCheckpoint, openGguf } from "@lowbit/gguf";
import { writeSafetensors } from "@lowbit/packing";
import { type TinyModelOptions, tinyModelBytes, trackedFiles } from "@lowbit/testing";

// An oracle of its own: names, layouts and configurations as transformers has them, spelled out once more and not taken from
// the plugin's tables.

export interface TinyFolder {
  /** The same model as GGUF, whose path was compared with llama.cpp. */
  readonly gguf: GgufCheckpoint;
  readonly files: Record<string, Uint8Array>;
}

interface Layout {
  /** Name in GGUF, without "blk.N." → behind the layer, or whole. */
  readonly names: Readonly<Record<string, string>>;
  readonly layer: string;
  /** q and k in halves. */
  readonly unpermuted?: boolean;
  readonly normOffset?: number;
  readonly transposed?: boolean;
}

const llamaNames = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};
const headNorms = { attn_q_norm: "self_attn.q_norm", attn_k_norm: "self_attn.k_norm" };
const experts = {
  ffn_gate_inp: "mlp.gate",
  ffn_gate_exps: "mlp.experts.#.gate_proj",
  ffn_up_exps: "mlp.experts.#.up_proj",
  ffn_down_exps: "mlp.experts.#.down_proj",
};
const postNorms = {
  post_attention_norm: "post_attention_layernorm",
  ffn_norm: "pre_feedforward_layernorm",
  post_ffw_norm: "post_feedforward_layernorm",
};
const layer = "model.layers.";

const layouts: Readonly<Record<string, Layout>> = {
  llama: { names: llamaNames, layer, unpermuted: true },
  mixtral: {
    names: {
      ...llamaNames,
      ffn_gate_inp: "block_sparse_moe.gate",
      ffn_gate_exps: "block_sparse_moe.experts.#.w1",
      ffn_up_exps: "block_sparse_moe.experts.#.w3",
      ffn_down_exps: "block_sparse_moe.experts.#.w2",
    },
    layer,
    unpermuted: true,
  },
  qwen2: { names: llamaNames, layer },
  qwen2moe: {
    names: {
      ...llamaNames,
      ...experts,
      ffn_gate_inp_shexp: "mlp.shared_expert_gate",
      ffn_gate_shexp: "mlp.shared_expert.gate_proj",
      ffn_up_shexp: "mlp.shared_expert.up_proj",
      ffn_down_shexp: "mlp.shared_expert.down_proj",
    },
    layer,
  },
  qwen3: { names: { ...llamaNames, ...headNorms }, layer },
  qwen3moe: { names: { ...llamaNames, ...headNorms, ...experts }, layer },
  gemma: { names: llamaNames, layer, normOffset: 1 },
  gemma2: { names: { ...llamaNames, ...postNorms }, layer, normOffset: 1 },
  gemma3: { names: { ...llamaNames, ...headNorms, ...postNorms }, layer, normOffset: 1 },
  phi3: {
    names: { ...llamaNames, attn_qkv: "self_attn.qkv_proj", ffn_up: "mlp.gate_up_proj" },
    layer,
  },
  gpt2: {
    names: {
      token_embd: "transformer.wte",
      position_embd: "transformer.wpe",
      output_norm: "transformer.ln_f",
      attn_norm: "ln_1",
      attn_qkv: "attn.c_attn",
      attn_output: "attn.c_proj",
      ffn_norm: "ln_2",
      ffn_up: "mlp.c_fc",
      ffn_down: "mlp.c_proj",
    },
    layer: "transformer.h.",
    transposed: true,
  },
  bitnet: {
    names: {
      ...llamaNames,
      attn_sub_norm: "self_attn.attn_sub_norm",
      ffn_sub_norm: "mlp.ffn_sub_norm",
    },
    layer,
  },
};

/** The common fields of config.json, as the defaults of a tiny model are. */
export function tinyConfig(options: TinyModelOptions): Record<string, unknown> {
  const {
    architecture,
    embeddingSize = 64,
    layers = 2,
    heads = 4,
    kvHeads = 2,
    contextLength = 128,
  } = options;
  const gemma = architecture.startsWith("gemma");
  return {
    hidden_size: embeddingSize,
    intermediate_size: options.feedForwardSize ?? 96,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: options.keySize ?? embeddingSize / heads,
    max_position_embeddings: contextLength,
    vocab_size: 320,
    rms_norm_eps: 1e-5,
    rope_theta: options.ropeBase ?? 10_000,
    tie_word_embeddings: options.tied ?? (gemma || architecture === "bitnet"),
    ...(!gemma && architecture !== "bitnet" && { hidden_act: "silu" }),
  };
}

/** A random model as GGUF and as a folder with this config.json; `rename` changes the names in the folder. */
export async function tinyFolder(
  options: TinyModelOptions,
  config: Record<string, unknown>,
  rename: (name: string) => string = (name) => name,
): Promise<TinyFolder> {
  const gguf = await openGguf(trackedFiles({ "model.gguf": await tinyModelBytes(options) }, "model.gguf"));
  const family = options.architecture === "llama" && options.experts ? "mixtral" : options.architecture;
  const layout = layouts[family] as Layout;
  const { heads = 4, kvHeads = 2, embeddingSize = 64 } = options;
  const headSize = options.keySize ?? embeddingSize / heads;
  const tensors: {
    name: string;
    dtype: "F32" | "F16" | "BF16";
    shape: readonly number[];
    data: Uint8Array;
  }[] = [];
  for (const { name, shape, type } of gguf.headers[0]?.tensors ?? []) {
    if (name.startsWith("rope_")) continue;
    const [, number, stem = "", kind] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name) ?? [];
    const inner = layout.names[stem];
    if (inner === undefined) throw new Error(`no name for ${name}`);
    const full = `${number === undefined ? "" : `${layout.layer}${number}.`}${inner}.${kind}`;
    const dtype = type.name as "F32";
    let data = await gguf.blocks(name);
    const rowBytes = (type.bytes * (shape.at(-1) ?? 1)) / (kind === "bias" ? (shape[0] ?? 1) : 1);
    if (layout.unpermuted && (stem === "attn_q" || stem === "attn_k")) {
      data = toHalves(data, stem === "attn_q" ? heads : kvHeads, headSize, rowBytes);
    }
    if (layout.normOffset !== undefined && stem.endsWith("norm")) data = shifted(data, -layout.normOffset);
    if (shape.length === 3) {
      const each = data.length / (shape[0] ?? 1);
      for (let e = 0; e < (shape[0] ?? 0); e++) {
        const part = data.subarray(e * each, (e + 1) * each);
        tensors.push({
          name: rename(full.replace("#", String(e))),
          dtype,
          shape: shape.slice(1),
          data: part,
        });
      }
    } else if (layout.transposed && shape.length === 2 && number !== undefined) {
      const [rows = 0, columns = 0] = shape;
      tensors.push({
        name: rename(full),
        dtype,
        shape: [columns, rows],
        data: turned(data, rows, columns, type.bytes),
      });
    } else if (stem === "ffn_gate_inp_shexp") {
      tensors.push({ name: rename(full), dtype, shape: [1, ...shape], data });
    } else tensors.push({ name: rename(full), dtype, shape, data });
  }
  const parts: Uint8Array[] = [];
  await writeSafetensors({ write: (bytes) => void parts.push(bytes.slice()) }, tensors);
  return {
    gguf,
    files: {
      "config.json": new TextEncoder().encode(JSON.stringify(config)),
      "model.safetensors": new Uint8Array(Buffer.concat(parts)),
    },
  };
}

/** [heads, d/2, 2, row] → [heads, 2, d/2, row] */
function toHalves(data: Uint8Array, heads: number, headSize: number, rowBytes: number): Uint8Array {
  const out = new Uint8Array(data.length);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < headSize / 2; i++) {
      for (let b = 0; b < 2; b++) {
        const from = (head * headSize + 2 * i + b) * rowBytes;
        out.set(data.subarray(from, from + rowBytes), (head * headSize + (b * headSize) / 2 + i) * rowBytes);
      }
    }
  }
  return out;
}

function shifted(data: Uint8Array, by: number): Uint8Array {
  return new Uint8Array(new Float32Array(data.slice().buffer).map((value) => value + by).buffer);
}

function turned(data: Uint8Array, rows: number, columns: number, size: number): Uint8Array {
  const out = new Uint8Array(data.length);
  for (let i = 0; i < rows * columns; i++) {
    const [r, c] = [Math.floor(i / columns), i % columns];
    out.set(data.subarray(i * size, (i + 1) * size), (c * rows + r) * size);
  }
  return out;
}
