import { describe, expect, it } from "vitest";
import { scripted } from "../test/load-scripted.ts";
import { byteTokenizer, vocabularySize } from "../test/scripted.ts";
import { tokenizerProbe } from "./self-check.ts";

const filled = (value: number) => () => new Float32Array(vocabularySize).fill(value);
const spoilt = () => Float32Array.from({ length: vocabularySize }, (_, i) => (i === 7 ? Number.NaN : i));

describe("the check at the end of loading", () => {
  it.each([
    ["no numbers", spoilt, /logits are not finite/],
    ["infinities", filled(Number.POSITIVE_INFINITY), /logits are not finite/],
    ["the same for every token", filled(3), /as likely as any other/],
  ])("refuses a model that gives %s, and leaves nothing behind", async (_, script, message) => {
    const { load, backend, format } = scripted({ script });
    await expect(load()).rejects.toMatchObject({
      code: "file-corrupt",
      reason: "self-check",
      message: expect.stringMatching(message),
    });
    expect([backend.alive.size, format.openCount()]).toEqual([0, 0]);
    await using model = await load({ selfCheck: false });
    expect((await model.forward([1])).length).toBe(vocabularySize);
  });

  it("compares the tokenizer with what the checkpoint states of it", async () => {
    const probe = tokenizerProbe(byteTokenizer());
    expect(probe).toMatch(/^[0-9a-f]{8}$/);
    const stating = (text: string) =>
      scripted({ format: { metadata: new Map([["lowbit.tokenizer_probe", text]]) } });
    await using model = await stating(probe).load();
    expect(model.info.format).toBe("scripted");
    const { load, backend, format } = stating("00000000");
    await expect(load()).rejects.toMatchObject({ code: "file-corrupt", reason: "tokenizer-probe" });
    // Before any weight is read.
    expect([format.read, backend.created(), format.openCount()]).toEqual([[], 0, 0]);
  });
});
