import { readFileSync } from "node:fs";
import { decodeDense, denseType, denseWeight, type LinearWeight, openSafetensors, type Packing, parseJson } from "@lowbit/core";
import { bitsandbytesPacking } from "@lowbit/bitsandbytes";
import { reference } from "@lowbit/kernels-reference";
import { architectures } from "@lowbit/models";
import { runModel, testData, testPlatform, trackedFiles } from "@lowbit/testing";
import { expect, test } from "vitest";
import { exl2Packing } from "./index.ts";

const F32 = denseType("F32", "f32");
test.each([["exl2-mixed", exl2Packing], ["bnb-nf4", bitsandbytesPacking]] as const)("%s", async (name, packing: Packing) => {
  const dir = testData(`golden/models/${name}`)!;
  const files = await openSafetensors(trackedFiles(dir));
  const config = parseJson(readFileSync(`${dir}/config.json`, "utf8"), "c") as ReadonlyMap<string, any>;
  const modules = await packing.open({ name, quantization: config.get("quantization_config"), quantizationFile: "config.json", tensors: files.tensors, read: (t) => files.read(t.name) });
  const dense = async (n: string) => { const t = files.tensors.get(n)!; const v = new Float32Array(t.shape.reduce((a, b) => a * b, 1)); decodeDense(t.dtype === "F16" ? "f16" : "f32", await files.read(n), v); return v; };
  const map: Record<string, string> = { embed: "model.embed_tokens", head: "lm_head", norm: "model.norm" };
  for (const l of [0, 1]) Object.assign(map, Object.fromEntries(Object.entries({ "attn.norm": "input_layernorm", "ffn.norm": "post_attention_layernorm", "attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj", "attn.v": "self_attn.v_proj", "attn.o": "self_attn.o_proj", "ffn.gate": "mlp.gate_proj", "ffn.up": "mlp.up_proj", "ffn.down": "mlp.down_proj" }).map(([k, v]) => [`layers.${l}.${k}`, `model.layers.${l}.${v}`])));
  const checkpoint: any = {
    format: "x", metadata: new Map(),
    config: { architecture: "llama", layers: 2, embeddingSize: 256, feedForwardSize: 256, heads: 4, kvHeads: 2, keySize: 64, valueSize: 64, vocabularySize: 320, contextLength: 512, epsilon: 1e-5, normEpsilon: 1e-5, rope: { base: 10000, dimensions: 64, pairing: "halves", theta: 10000 } , activation: "silu"},
    entries: () => Object.keys(map).map((role) => ({ role })),
    async weight(role: string): Promise<LinearWeight> {
      const d = modules.describe(map[role]!);
      const w = d ? await modules.weight(map[role]!) : undefined;
      const v = w ? denseWeight(w) : await dense(map[role]! + ".weight");
      const shape = w ? [w.out, w.in] : files.tensors.get(map[role]! + ".weight")!.shape;
      return { out: shape[0]!, in: shape[1]!, segments: [{ type: F32, from: 0, to: shape[1]!, blocks: new Uint8Array(v.buffer) }] };
    },
    vector: (role: string) => dense(map[role]! + ".weight"),
    close: async () => {},
  };
  const tokens = [...new Int32Array(Uint8Array.from(readFileSync(testData("golden/models/tokens.i32.bin")!)).buffer)];
  const expected = new Float32Array(Uint8Array.from(readFileSync(testData(`golden/models/logits/${name}.f32.bin`)!)).buffer);
  const backend = await reference().create(testPlatform());
  const logits = await runModel({ checkpoint, architectures, backend, tokens });
  let worst = 0, most = 0;
  for (let i = 0; i < expected.length; i++) { worst = Math.max(worst, Math.abs(logits[i]! - expected[i]!)); most = Math.max(most, Math.abs(expected[i]!)); }
  console.log(name, worst, most, worst / most);
  expect(worst / most).toBeLessThan(2e-3);
});
