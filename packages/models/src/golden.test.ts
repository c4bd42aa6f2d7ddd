import { readFileSync } from "node:fs";
import { openGguf } from "@lowbit/gguf";
import { reference } from "@lowbit/kernels-reference";
import { describeWithData, runModel, testData, testPlatform, trackedFiles } from "@lowbit/testing";
import { expect, test } from "vitest";
import { architectures } from "./index.ts";

interface GoldenModel {
  readonly id: string;
  readonly format: string;
  readonly path: string;
  readonly logits: string;
}

const folder = "golden";
const at = (path: string): string => testData(`${folder}/${path}`) ?? "";
/** A copy, since small files share one buffer. */
const bytesOf = (path: string): ArrayBuffer => new Uint8Array(readFileSync(at(path))).buffer;

describeWithData("whole tiny models against their reference logits", [`${folder}/manifest.json`], () => {
  const { models } = JSON.parse(readFileSync(at("manifest.json"), "utf8")) as { models: GoldenModel[] };
  const ours = models.filter(({ format }) => format === "gguf" || format === "gguf-split");

  test("there are some", () => expect(ours.length).toBeGreaterThanOrEqual(9));

  test.each(ours)("$id", async ({ path, logits }) => {
    const expected = new Float32Array(bytesOf(logits));
    const ids = new Int32Array(bytesOf("models/tokens.i32.bin"));
    const checkpoint = await openGguf(trackedFiles(at(path)));
    const backend = await reference().create(testPlatform());
    const actual = await runModel({ checkpoint, architectures, backend, tokens: [...ids], chunk: 7 });
    await checkpoint.close();
    // Tolerance of the manifest for f32 implementations: 2e-3 of the largest logit. Ours only rounds activations to f32
    // between operations, which is far less.
    const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    let difference = 0;
    for (let i = 0; i < expected.length; i++) {
      difference = Math.max(difference, Math.abs((actual[i] ?? Number.NaN) - (expected[i] ?? 0)));
    }
    expect(actual.length).toBe(expected.length);
    expect(difference / largest).toBeLessThan(2e-5);
  });
});
