import { Tokenizer as Oracle } from "@huggingface/tokenizers";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { hostileText } from "../test/texts.ts";
import { asGgml, packagedTokenizer } from "../test/vocabularies.ts";
import { createTokenizer } from "./index.ts";

const runs = 2000;

describe("against @huggingface/tokenizers", () => {
  for (const name of ["llama3", "qwen2_5", "qwen3", "gemma3", "gptoss", "deepseek_v3"] as const) {
    it(`${name}: ${runs} texts encode and decode alike`, async () => {
      const { tokenizer, config } = await packagedTokenizer(name);
      const ours = createTokenizer({ kind: "huggingface", tokenizer, config });
      const oracle = new Oracle({ ...tokenizer, model: { type: "BPE", ...tokenizer.model } }, config);
      const literals = tokenizer.added_tokens.slice(0, 40).map(({ content }) => content);
      const encoding = { add_special_tokens: false };
      fc.assert(
        fc.property(hostileText(literals), (text) => {
          const expected = oracle.encode(text, encoding).ids;
          expect(ours.encode(text, { addSpecial: false, parseSpecial: true })).toEqual(expected);
          // The oracle refuses to decode nothing.
          if (expected.length === 0) return;
          for (const special of [true, false]) {
            expect(ours.decode(expected, { special })).toBe(
              oracle.decode(expected, { skip_special_tokens: !special, clean_up_tokenization_spaces: false }),
            );
          }
        }),
        { numRuns: runs, seed: 20261124 },
      );
    });
  }
});

describe("named pre-tokenizers", () => {
  for (const [name, pre] of [
    ["llama3", "llama-bpe"],
    ["qwen3", "qwen2"],
    ["gptoss", "gpt-4o"],
    ["deepseek_v3", "deepseek-v3"],
  ] as const) {
    it(`${pre} cuts as the pattern in ${name}'s tokenizer.json`, async () => {
      const files = await packagedTokenizer(name);
      const named = createTokenizer({ kind: "ggml", metadata: asGgml(files, pre) });
      const spelled = createTokenizer({ kind: "huggingface", ...files });
      const literals = files.tokenizer.added_tokens.slice(0, 40).map(({ content }) => content);
      fc.assert(
        fc.property(hostileText(literals), (text) => {
          // Qwen's tokenizer.json composes characters; GGUF has no word for that, and llama.cpp doesn't.
          const composed = text.normalize("NFC");
          for (const parseSpecial of [true, false]) {
            const options = { addSpecial: false, parseSpecial };
            expect(named.encode(composed, options)).toEqual(spelled.encode(composed, options));
          }
        }),
        { numRuns: 500, seed: 5 },
      );
    });
  }
});
