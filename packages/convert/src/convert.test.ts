import { type Checkpoint, type CheckpointWriter, LowbitError, type OutputPlace } from "@lowbit/core";
import {
  type FakeWriterOptions,
  fakeArchitecture,
  fakeCheckpoint,
  fakeWriter,
  toHalves,
} from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { type Conversion, type ConversionProgress, convert } from "./convert.ts";
import { type MemoryOutput, memoryOutput } from "./memory.ts";
import type { ConversionTarget } from "./target.ts";

const fakeTarget = (options: FakeWriterOptions = {}): ConversionTarget => ({
  name: "fake",
  options: { type: options.type ?? "f32" },
  writer: fakeWriter(options),
});
const run = (changes: Partial<Conversion> = {}) =>
  convert({
    source: fakeCheckpoint(),
    architectures: [fakeArchitecture],
    target: fakeTarget(),
    output: memoryOutput(),
    ...changes,
  });
const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  );
const contents = ({ files }: MemoryOutput) =>
  [...files].map(([name, bytes]) => [name, Buffer.from(bytes).toString("hex")]);
const roles = fakeArchitecture
  .weights(fakeCheckpoint().config)
  .filter(({ optional }) => !optional)
  .map(({ role }) => role);

/** A clean run's files. */
async function reference(changes: Partial<Conversion> = {}): Promise<unknown> {
  const output = memoryOutput();
  await run({ ...changes, output });
  return contents(output);
}

describe("convert", () => {
  it("writes what the writer makes, and reports every weight", async () => {
    const output = memoryOutput();
    const report = await run({ output });
    expect([...output.files.keys()].sort()).toEqual(["index.json", "weights.bin"]);
    expect(output.staging.files.size).toBe(0);
    expect(report.weights.map(({ role }) => role)).toEqual(roles);
    expect(report.weights.every(({ fidelity, error }) => fidelity === "exact" && !error)).toBe(true);
    expect(report).toMatchObject({ from: "fake", to: "fake", options: { type: "f32" }, resumedWeights: 0 });
    expect(report.notCarried).toEqual([{ name: "fake.leftover", shape: [3], bytes: 12 }]);
    const embed = report.weights[0];
    expect(embed?.before).toEqual({ type: "F32", bytes: 512, bitsPerWeight: 32 });
    // A bias of 8 beside 64 weights.
    expect(report.weights[2]?.before.bitsPerWeight).toBe(36);
    const index = JSON.parse(new TextDecoder().decode(output.files.get("index.json")));
    expect(index[0]).toMatchObject({ role: "embed", name: "embed.weight", note: { rows: 16 } });
    const bytes = report.after.bytes;
    expect(output.files.get("weights.bin")?.length).toBe(bytes);
    expect(report.totals.exact).toMatchObject({ tensors: roles.length, bytes });
  });

  it("gives a single file its own name", async () => {
    const output = memoryOutput();
    await run({ output, target: fakeTarget({ output: "file" }) });
    expect([...output.files.keys()]).toEqual(["weights.bin"]);
  });

  it("tells what is lossless in value from what was rounded, by how much", async () => {
    const target = fakeTarget({ type: "f16" });
    const halves = await run({ target, source: fakeCheckpoint({ values: toHalves }) });
    expect(halves.totals.lossless.tensors).toBe(4);
    expect(halves.totals.requantized.tensors).toBe(0);
    expect(halves.weights[0]?.after).toEqual({ type: "F16", bytes: 256, bitsPerWeight: 16 });

    const source = fakeCheckpoint();
    const rounded = await run({ target, source });
    const { segments } = await source.weight("embed");
    const values = new Float32Array(segments[0]!.blocks.buffer);
    const errors = values.map((value) => Math.fround(Math.f16round(value)) - value);
    const rms = (list: Float32Array) => Math.sqrt(list.reduce((sum, value) => sum + value * value, 0));
    expect(rounded.weights[0]).toMatchObject({ role: "embed", fidelity: "requantized" });
    expect(rounded.weights[0]?.error?.relativeRms).toBeCloseTo(rms(errors) / rms(values), 12);
    expect(rounded.weights[0]?.error?.maxAbs).toBe(Math.max(...errors.map(Math.abs)));
  });

  it("reports progress that only grows, to the end", async () => {
    const events: ConversionProgress[] = [];
    await run({ onProgress: (event) => events.push(event) });
    expect([...new Set(events.map(({ phase }) => phase))]).toEqual(["weights", "files", "done"]);
    for (const phase of ["weights", "files"] as const) {
      const done = events.filter((event) => event.phase === phase).map(({ doneBytes }) => doneBytes);
      expect(done).toEqual([...done].sort((a, b) => a - b));
      expect(done.at(-1)).toBe(events.findLast((event) => event.phase === phase)?.totalBytes);
    }
    expect(events.flatMap(({ role }) => role ?? [])).toEqual(roles);
  });
});

describe("exact", () => {
  it("takes what moves and what is equal in value", async () => {
    const source = fakeCheckpoint({ values: toHalves });
    expect((await run({ exact: true })).totals.requantized.tensors).toBe(0);
    expect(
      (await run({ exact: true, source, target: fakeTarget({ type: "f16" }) })).totals.exact.tensors,
    ).toBe(3);
  });

  it("refuses the first weight that was rounded, and leaves nothing", async () => {
    const output = memoryOutput();
    const values = (role: string, drawn: Float32Array) => role !== "layers.1.attn.q" && toHalves(role, drawn);
    const source = fakeCheckpoint({ values });
    const error = await failure(run({ exact: true, output, source, target: fakeTarget({ type: "f16" }) }));
    expect(error).toMatchObject({ code: "type-unsupported", reason: "inexact" });
    expect(String(error)).toMatch(/layers\.1\.attn\.q .* F16 .* by 0\.0\d+ %/);
    expect([output.files.size, output.staging.files.size]).toEqual([0, 0]);
  });

  it("looks at what an earlier run has done, too", async () => {
    const output = memoryOutput();
    const target = fakeTarget({ type: "f16" });
    await failure(run({ output, target, onProgress: stopAfter(3) }));
    expect(await failure(run({ output, target, exact: true }))).toMatchObject({ reason: "inexact" });
  });
});

/** Fails, as a killed process would, after so many weights. */
function stopAfter(weights: number): (progress: ConversionProgress) => void {
  return ({ doneWeights }) => {
    if (doneWeights === weights) throw new Error("killed");
  };
}

/** An output whose operations count down to a failure; a write that fails has written half. */
function failingOutput(
  inner: MemoryOutput,
  failAt: number,
): OutputPlace & { readonly operations: () => number } {
  let count = 0;
  const failing = () => ++count === failAt;
  const fail = (): never => {
    throw new LowbitError("out-of-memory", "The disk is full.", { reason: "disk-full" });
  };
  const folder = <T extends Pick<OutputPlace["staging"], "create">>(place: T): T => ({
    ...place,
    async create(file: string) {
      if (failing()) fail();
      const sink = await place.create(file);
      return {
        async write(bytes: Uint8Array) {
          const bad = failing();
          await sink.write(bad ? bytes.subarray(0, bytes.length / 2) : bytes);
          if (bad) fail();
        },
        async close() {
          await sink.close();
          if (failing()) fail();
        },
      };
    },
  });
  return {
    ...inner,
    staging: {
      ...folder(inner.staging),
      async append(file, bytes) {
        const bad = failing();
        await inner.staging.append(file, bad ? bytes.subarray(0, bytes.length / 2) : bytes);
        if (bad) fail();
      },
    },
    async begin() {
      if (failing()) fail();
      return folder(await inner.begin());
    },
    async publish(file) {
      if (failing()) fail();
      await inner.publish(file);
    },
    operations: () => count,
  };
}

describe("interruption", () => {
  for (const type of ["f32", "f16"] as const) {
    it(`at every operation leaves nothing under the name, and the next run makes the same bytes (${type})`, async () => {
      const target = fakeTarget({ type });
      const clean = await reference({ target });
      const total = failingOutput(memoryOutput(), 0);
      await run({ target, output: total });
      expect(total.operations()).toBeGreaterThan(40);
      for (let failAt = 1; failAt <= total.operations(); failAt++) {
        const output = memoryOutput();
        const error = await failure(run({ target, output: failingOutput(output, failAt) }));
        expect(error).toMatchObject({ reason: "disk-full" });
        expect(output.files.size).toBe(0);
        await run({ target, output });
        expect(contents(output)).toEqual(clean);
      }
    });
  }

  it("twice, at any two operations, changes nothing either", async () => {
    const clean = await reference();
    for (let first = 1; first < 40; first += 3) {
      for (let second = 1; second < 20; second += 4) {
        const output = memoryOutput();
        await failure(run({ output: failingOutput(output, first) }));
        await failure(run({ output: failingOutput(output, second) }));
        if (output.files.size === 0) await run({ output });
        expect(contents(output)).toEqual(clean);
      }
    }
  });

  it("goes on after the last whole weight, reading only what it must", async () => {
    for (let done = 0; done <= roles.length; done++) {
      const output = memoryOutput();
      await failure(run({ output, onProgress: stopAfter(done) }));
      const stored: string[] = [];
      const target = fakeTarget();
      const writer: CheckpointWriter = {
        ...target.writer,
        store: (role, weight) => {
          stored.push(role);
          return target.writer.store(role, weight);
        },
        storeVector: (role, values) => {
          stored.push(role);
          return target.writer.storeVector(role, values);
        },
      };
      const report = await run({ output, target: { ...target, writer } });
      expect(stored).toEqual(roles.slice(done));
      expect(report.resumedWeights).toBe(done);
      expect(report.weights.map(({ role }) => role)).toEqual(roles);
    }
  });

  it("survives a journal cut anywhere, and parts that are cut, gone or too long", async () => {
    const clean = await reference();
    const staged = async () => {
      const output = memoryOutput();
      await failure(run({ output, onProgress: stopAfter(5) }));
      return output;
    };
    const folder = (output: MemoryOutput) => output.staging.files as Map<string, Uint8Array>;
    const journal = folder(await staged()).get("journal.jsonl")!;
    for (let length = 0; length <= journal.length; length += 7) {
      const output = await staged();
      folder(output).set("journal.jsonl", journal.slice(0, length));
      // Interrupted once more, so that lines follow the torn one.
      await failure(run({ output, onProgress: stopAfter(6) }));
      const { resumedWeights } = await run({ output });
      expect(resumedWeights).toBe(6);
      expect(contents(output)).toEqual(clean);
    }
    for (const damage of ["cut", "gone", "long"]) {
      const output = await staged();
      const files = folder(output);
      const part = files.get("part-00002.bin")!;
      if (damage === "gone") files.delete("part-00002.bin");
      else files.set("part-00002.bin", damage === "cut" ? part.slice(1) : new Uint8Array(part.length + 1));
      expect((await run({ output })).resumedWeights).toBe(4);
      expect(contents(output)).toEqual(clean);
    }
  });

  it.each([
    ["another source", { source: fakeCheckpoint({ seed: 2 }) }, /another source with the same shapes/],
    ["another shape", { source: fakeCheckpoint({ width: 16 }) }, /another source/],
    ["other options", { target: fakeTarget({ type: "f16" }) }, /other options/],
    ["a wish", { resume: false }, /asked/],
  ] as const)("starts afresh for %s, and says why", async (_, changes, reason) => {
    const output = memoryOutput();
    await failure(run({ output, onProgress: stopAfter(4) }));
    const events: ConversionProgress[] = [];
    const report = await run({ output, ...changes, onProgress: (event) => events.push(event) });
    expect(report.resumedWeights).toBe(0);
    expect(events[0]?.discarded).toMatch(reason);
    expect(contents(output)).toEqual(await reference(changes));
  });

  it("does not mistake a fine-tuned copy for the source, whichever weight differs", async () => {
    for (const changed of ["embed", "layers.0.attn.norm", "layers.1.attn.q", "layers.1.attn.q.bias"]) {
      const output = memoryOutput();
      await failure(run({ output, onProgress: stopAfter(5) }));
      const source = fakeCheckpoint({
        values: (role, values) => {
          const { [values.length - 1]: last = 0 } = values;
          // A merged adapter touches the same kind of weight in every layer.
          if (role.replace(/\d/, "") === changed.replace(/\d/, "")) values[values.length - 1] = last + 1;
        },
      });
      expect((await run({ output, source })).resumedWeights).toBe(0);
      expect(contents(output)).toEqual(await reference({ source }));
    }
  });
});

describe("abort", () => {
  it("ends within one weight, and can be gone on from", async () => {
    const clean = await reference();
    for (let at = 0; at < roles.length; at++) {
      const output = memoryOutput();
      const controller = new AbortController();
      let after = 0;
      const onProgress = ({ doneWeights }: ConversionProgress) => {
        if (controller.signal.aborted) after++;
        if (doneWeights === at) controller.abort();
      };
      const error = await failure(run({ output, signal: controller.signal, onProgress }));
      expect(error).toMatchObject({ code: "aborted" });
      expect([after, output.files.size]).toEqual([0, 0]);
      await run({ output });
      expect(contents(output)).toEqual(clean);
    }
  });

  it("is heard while the files are put together", async () => {
    const output = memoryOutput();
    const controller = new AbortController();
    const onProgress = ({ phase }: ConversionProgress) => phase === "files" && controller.abort();
    const error = await failure(run({ output, signal: controller.signal, onProgress }));
    expect(error).toMatchObject({ code: "aborted" });
    expect(output.files.size).toBe(0);
  });
});

describe("what cannot be converted", () => {
  const source = fakeCheckpoint();
  const with_ = (changes: Partial<Checkpoint>) => ({ source: { ...source, ...changes } });

  it.each([
    ["an architecture that nobody knows", { architectures: [] }, { code: "architecture-unsupported" }],
    [
      "a weight that is missing",
      with_({ entries: () => source.entries().filter(({ role }) => role !== "layers.2.attn.q") }),
      { code: "weight-missing", message: expect.stringMatching(/layers\.2\.attn\.q/) },
    ],
    [
      "a weight of another shape",
      with_({ weight: () => source.weight("layers.0.attn.q") }),
      {
        code: "file-corrupt",
        reason: "shape",
        message: expect.stringMatching(/embed .*\[8, 8\].*\[16, 8\]/),
      },
    ],
    [
      "a number that the target has no room for",
      {
        source: fakeCheckpoint({ values: (role, values) => role === "embed" && values.fill(1e6) }),
        target: fakeTarget({ type: "f16" }),
      },
      {
        code: "type-unsupported",
        reason: "not-finite",
        message: expect.stringMatching(/embed.*1000000.*Infinity/),
      },
    ],
  ])("%s", async (_, changes, error) => {
    const output = memoryOutput();
    expect(await failure(run({ output, ...changes }))).toMatchObject(error);
    expect(output.files.size).toBe(0);
  });

  it("carries NaN and infinities that stay what they are", async () => {
    const values = (_: string, drawn: Float32Array) => drawn.set([Number.NaN, Number.POSITIVE_INFINITY]);
    const report = await run({ source: fakeCheckpoint({ values }) });
    expect(report.totals.exact.tensors).toBe(roles.length);
  });

  it("a writer that claims to have moved what it changed is caught", async () => {
    const target = fakeTarget({ type: "f16" });
    const store: CheckpointWriter["store"] = (role, weight) => ({
      ...target.writer.store(role, weight),
      moved: true,
    });
    const error = await failure(run({ target: { ...target, writer: { ...target.writer, store } } }));
    expect(error).toMatchObject({ code: "internal", message: expect.stringMatching(/embed.*moved/) });
  });
});
