import { definePlugin, type Plugin } from "@lowbit/core";

/** Hugging Face checkpoints: config.json, tokenizer files and plain or packed safetensors weights. */
export function safetensors(): Plugin {
  return definePlugin({ name: "safetensors", apiVersion: 1, formats: [] });
}
