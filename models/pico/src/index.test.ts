import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { picoEvaluation, picoGguf, picoHuggingFace } from "./index.ts";

const read = (url: URL): Buffer => readFileSync(url);
const sha256 = (url: URL): string => createHash("sha256").update(read(url)).digest("hex");

describe("@lowbit/pico", () => {
  it("ships the files that its addresses name, unchanged", () => {
    expect(read(picoGguf).subarray(0, 4).toString()).toBe("GGUF");
    expect(sha256(picoGguf)).toBe("57e47016a3aa68f62bcc28f914b925182ade3495f9696da1d85bd2aaf7297da3");
    expect(sha256(new URL("model.safetensors", picoHuggingFace))).toBe(
      "d2f8fa2b53d9ada4af4a2a7a9df3ba58423b4d073e124ebad3c5f40ac3903c09",
    );
  });

  it("ships the configuration and tokenizer beside the unquantized weights", () => {
    const json = (name: string) => JSON.parse(read(new URL(name, picoHuggingFace)).toString());
    expect(json("config.json")).toMatchObject({
      model_type: "llama",
      num_hidden_layers: 4,
      vocab_size: 1024,
    });
    expect(json("tokenizer.json").model.type).toBe("BPE");
    expect(json("tokenizer_config.json").chat_template).toContain("<|im_start|>");
  });

  it("ships 2,300 evaluation items, each with its metric", () => {
    const files = readdirSync(picoEvaluation);
    const items = files.flatMap((file) =>
      read(new URL(file, picoEvaluation))
        .toString()
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line) as Record<string, unknown>),
    );
    expect(items).toHaveLength(2300);
    expect(new Set(items.map(({ id }) => id)).size).toBe(2300);
    expect(items.filter(({ metric, text, prompt }) => !metric || !(text ?? prompt))).toEqual([]);
  });
});
