import { readFileSync } from "node:fs";
import { awq } from "@lowbit/awq";
import { bitsandbytes } from "@lowbit/bitsandbytes";
import { compressedTensors } from "@lowbit/compressed-tensors";
import { type BackendFactory, type Checkpoint, LowbitError } from "@lowbit/core";
import { exl2 } from "@lowbit/exl2";
import { gguf } from "@lowbit/gguf";
import { gptq } from "@lowbit/gptq";
import { hqq } from "@lowbit/hqq";
import { reference } from "@lowbit/kernels-reference";
import { wasm } from "@lowbit/kernels-wasm";
import { architectures } from "@lowbit/models";
import {
  describeWithData,
  meanDivergence,
  runModel,
  testData,
  testPlatform,
  trackedFiles,
} from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { safetensorsFormat } from "./index.ts";

const packings = [gptq(), awq(), exl2(), bitsandbytes(), compressedTensors(), hqq()].flatMap(
  (plugin) => plugin.packings ?? [],
);
const format = safetensorsFormat();
const open = (path: string): Promise<Checkpoint> =>
  format.open(trackedFiles(testData(path) as string), undefined, packings);

async function logitsOf(checkpoint: Checkpoint, factory: BackendFactory, tokens: number[]) {
  const backend = await factory.create(testPlatform());
  try {
    return await runModel({ checkpoint, architectures, backend, tokens });
  } finally {
    await backend.dispose();
    await checkpoint.close();
  }
}

interface GoldenModel {
  id: string;
  path: string;
  logits: string;
}

describeWithData("whole models of the reference", ["golden/manifest.json"], () => {
  const manifest = JSON.parse(readFileSync(testData("golden/manifest.json") as string, "utf8")) as {
    models: GoldenModel[];
    malformed: { id: string; format: string; path: string; expect: { error: string } }[];
  };
  const ids = new Int32Array(
    new Uint8Array(readFileSync(testData("golden/models/tokens.i32.bin") as string)).buffer,
  );
  const models = manifest.models.filter(({ path }) => !path.includes("gguf"));

  describe.each(models)("$id", ({ path, logits }) => {
    const expected = (): Float32Array =>
      new Float32Array(new Uint8Array(readFileSync(testData(`golden/${logits}`) as string)).buffer);

    it("has the reference logits", async () => {
      const actual = await logitsOf(await open(`golden/${path}`), reference(), [...ids]);
      const wanted = expected();
      const largest = Math.max(...wanted.map(Math.abs));
      expect(actual.length).toBe(wanted.length);
      // The manifest allows 2e-3.
      expect(Math.max(...actual.map((v, i) => Math.abs(v - wanted[i]!))) / largest).toBeLessThan(2e-5);
    });

    it("runs packed on WebAssembly", async () => {
      const actual = await logitsOf(await open(`golden/${path}`), wasm(), [...ids]);
      expect(meanDivergence(expected(), actual, 320)).toBeLessThan(path.includes("hf-") ? 1e-6 : 2e-3);
    });
  });

  it.each(manifest.malformed.filter((item) => item.format.startsWith("safetensors")))("$id", async (item) => {
    const files = trackedFiles(testData(`golden/${item.path}`) as string);
    const error: unknown = await format.open(files, undefined, packings).then(
      (checkpoint) => checkpoint.close().then(() => "ok"),
      (error: unknown) => (LowbitError.is(error) ? error.reason : error),
    );
    expect(item.expect.error.split(" or ")).toContain(error);
    expect(files.openSources()).toBe(0);
  });
});

describeWithData("pico", ["models/pico/hf/config.json", "models/pico/pico-f16.gguf"], () => {
  it.each([
    ["reference", reference()],
    ["wasm", wasm()],
  ])("has the same logits as its GGUF, to the last bit, on %s", async (_, backend) => {
    const tokens = [1, 260, 300, 17, 400, 5, 999, 2];
    const folder = await open("models/pico/hf");
    const file = await gguf().formats![0]!.open(
      trackedFiles(testData("models/pico/pico-f16.gguf") as string),
    );
    const { name: _name, ...config } = file.config;
    expect(folder.config).toEqual(config);
    const ours = await logitsOf(folder, backend, tokens);
    expect(ours).toEqual(await logitsOf(file, backend, tokens));
  });
});
