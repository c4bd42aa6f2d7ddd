import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { F16 } from "@lowbit/gguf";
import { writeTinyModel } from "@lowbit/testing/tiny-model";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Workplace, workplace } from "../test/lowbit.ts";
import { defaultOutput } from "./commands/convert.ts";

let place: Workplace;
const lowbit: Workplace["run"] = (args, options) => place.run(args, options);
beforeAll(async () => {
  place = workplace();
  // A second of work, so that there is time to interrupt it.
  const shape = { embeddingSize: 256, feedForwardSize: 768, layers: 12 };
  await writeTinyModel(join(place.folder, "model.gguf"), { architecture: "llama", type: F16, ...shape });
});
afterAll(() => place.remove());

const files = (name: string) =>
  readdirSync(join(place.folder, name))
    .sort()
    .map((file) => [file, readFileSync(join(place.folder, name, file)).toString("base64")]);
const partial = (name: string, part: string) =>
  existsSync(join(place.folder, `${name}.partial`, "state", part));

describe("lowbit convert", () => {
  it("stops on Ctrl-C with exit code 130, and the same command goes on to the same bytes", async () => {
    const args = ["convert", "model.gguf", "--to", "gptq", "--group-size", "64"];
    const whole = await lowbit([...args, "-o", "whole"]);
    expect(whole).toMatchObject({ code: 0, stderr: "" });
    const stopped = await lowbit(args, {
      signal: "SIGINT",
      when: () => partial("model-gptq", "part-00004.bin"),
    });
    expect(stopped).toMatchObject({ code: 130, stdout: "" });
    const [, done] = /^Stopped with (\d+) of \d+ weights done; the same command/.exec(stopped.stderr) ?? [];
    expect(Number(done)).toBeGreaterThanOrEqual(4);
    expect(existsSync(join(place.folder, "model-gptq"))).toBe(false);
    const resumed = await lowbit(args);
    expect(resumed).toMatchObject({
      code: 0,
      stderr: expect.stringMatching(/^\d+ of \d+ weights were done/),
    });
    expect(resumed.stdout).toMatch(/Run it with: lowbit run model-gptq\n$/);
    expect(files("model-gptq")).toEqual(files("whole"));
    expect(existsSync(join(place.folder, "model-gptq.partial"))).toBe(false);
  });

  it("starts afresh for other options, and says why", async () => {
    const args = ["convert", "model.gguf", "--to", "awq"];
    await lowbit(args, { signal: "SIGKILL", when: () => partial("model-awq", "part-00003.bin") });
    const ended = await lowbit([...args, "--group-size", "32", "--json"]);
    expect(ended.stderr).toMatch(/^Starting afresh: model-awq\.partial is not used, because .* options\.\n$/);
    expect(JSON.parse(ended.stdout)).toMatchObject({ resumedWeights: 0, options: { groupSize: 32 } });
  });

  it("lists every tensor when asked, and keeps values where they can be kept", async () => {
    const ended = await lowbit(["convert", "model.gguf", "--to", "safetensors", "--exact", "--details"]);
    expect(ended.code).toBe(0);
    expect(ended.stdout).toMatch(
      /^layers\.3\.ffn\.down +256 × 768 {2}F16 +16\.00 {2}F16 +16\.00 {2}exact +- +-$/m,
    );
    expect(ended.stdout).not.toContain("requantized");
  });

  it.each([
    [["nothing.gguf", "--to", "gptq"], 1, /nothing\.gguf: there is no such file/],
    [["model.gguf", "--to", "gguf"], 2, /model\.gguf is what is being read/],
    [["model.gguf", "--to", "mxfp4"], 2, /only read.* Known are .*gptq/],
    [["model.gguf", "--to", "gptq", "--bits", "9", "-o", "x"], 2, /9 bits/],
    [["model.gguf", "--to", "gguf", "--type", "Q9", "-o", "x"], 2, /"Q9".*Known are .*Q8_0/],
  ])("ends %j with exit code %d and one line", async (args, code, message) => {
    const before = readdirSync(place.folder);
    const ended = await lowbit(["convert", ...args]);
    expect(ended).toMatchObject({ code, stdout: "" });
    expect(ended.stderr).toMatch(message);
    expect(ended.stderr).toMatch(/^lowbit: [^\n]*\n$/);
    expect(readdirSync(place.folder)).toEqual(before);
  });
});

describe("the default output", () => {
  it.each([
    [undefined, { to: "gptq" }, "pico-gptq"],
    ["models/llama", { to: "awq" }, "llama-awq"],
    ["models/llama/", { to: "gguf", type: "Q4_0" }, "llama-Q4_0.gguf"],
    ["a.b/model.Q8_0.gguf", { to: "gguf" }, "model.Q8_0.gguf"],
    ["x/model.safetensors.index.json", { to: "exl2" }, "model-exl2"],
    ["https://host/models/a.gguf?download=1", { to: "hqq" }, "a-hqq"],
    ["https://host/", { to: "hqq" }, "model-hqq"],
  ])("of %s to %j is %s", (model, flags, output) => expect(defaultOutput(model, flags)).toBe(output));
});
