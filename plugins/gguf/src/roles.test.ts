import { describe, expect, it } from "vitest";
import { roleOf, tensorName } from "./index.ts";

describe("roles", () => {
  it.each([
    ["token_embd.weight", "embed"],
    ["position_embd.weight", "embed.position"],
    ["output_norm.weight", "norm"],
    ["output_norm.bias", "norm.bias"],
    ["output.weight", "head"],
    ["rope_freqs.weight", "rope.factors"],
    ["rope_factors_long.weight", "rope.factors.long"],
    ["blk.0.attn_q.weight", "layers.0.attn.q"],
    ["blk.17.attn_q.bias", "layers.17.attn.q.bias"],
    ["blk.17.attn_q.scale", "layers.17.attn.q.scale"],
    ["blk.3.attn_qkv.weight", "layers.3.attn.qkv"],
    ["blk.3.attn_output.weight", "layers.3.attn.o"],
    ["blk.3.attn_q_norm.weight", "layers.3.attn.qNorm"],
    ["blk.3.attn_sub_norm.weight", "layers.3.attn.subNorm"],
    ["blk.3.post_attention_norm.weight", "layers.3.attn.postNorm"],
    ["blk.3.post_ffw_norm.weight", "layers.3.ffn.postNorm"],
    ["blk.3.ffn_gate_inp.weight", "layers.3.ffn.router"],
    ["blk.3.ffn_down_exps.weight", "layers.3.ffn.experts.down"],
    ["blk.3.ffn_up_shexp.weight", "layers.3.ffn.shared.up"],
    ["blk.3.ffn_gate_inp_shexp.weight", "layers.3.ffn.shared.router"],
  ])("%s is %s, both ways", (name, role) => {
    expect(roleOf(name)).toBe(role);
    expect(tensorName(role)).toBe(name);
  });

  it.each([
    "attn_q.weight",
    "blk.0.token_embd.weight",
    "blk.0.constructor.weight",
    "blk..attn_q.weight",
    "blk.0.attn_q",
    "blk.0.ffn_gate.3.weight",
    "xblk.0.attn_q.weight",
    "",
  ])("%s has none", (name) => expect(roleOf(name)).toBeUndefined());

  it("knows no tensor for a foreign role", () => {
    expect(tensorName("layers.0.attn.x")).toBeUndefined();
    expect(tensorName("attn.q")).toBeUndefined();
  });
});
