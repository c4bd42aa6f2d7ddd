import { type BackendFactory, type ByteSource, LowbitError, memorySource, singleFile } from "@lowbit/core";
import { describe, expect, it } from "vitest";
import { scripted } from "../test/load-scripted.ts";
import {
  scriptedArchitecture,
  scriptedBackend,
  scriptedFile,
  scriptedFormat,
  testPlatform,
} from "../test/scripted.ts";
import { createEngine, type LoadOptions, type LoadProgress } from "./index.ts";

const weightsBytes = 260 * 8 * 4 + 8 * 4;

describe("load", () => {
  it("reads one weight at a time, reports progress, and closes the checkpoint", async () => {
    const { load, format } = scripted();
    const seen: LoadProgress[] = [];
    await using model = await load({ onProgress: (progress) => seen.push(progress) });
    expect(format.read).toEqual(["embed", "norm"]);
    expect(format.openCount()).toBe(0);
    expect(seen).toEqual([
      { phase: "open", doneBytes: 0, totalBytes: 0 },
      { phase: "weights", doneBytes: 0, totalBytes: weightsBytes },
      { phase: "weights", doneBytes: 260 * 32, totalBytes: weightsBytes, role: "embed" },
      { phase: "weights", doneBytes: weightsBytes, totalBytes: weightsBytes, role: "norm" },
      { phase: "ready", doneBytes: weightsBytes, totalBytes: weightsBytes },
    ]);
    expect(model.info).toMatchObject({
      architecture: "scripted",
      format: "scripted",
      parameters: 260 * 8 + 8,
      bitsPerWeight: 32,
      contextLength: 2048,
      backend: "scripted",
      backendDescription: "says what it is told",
    });
    expect(model.info.plan).toMatchObject({ weightBytes: weightsBytes, fits: true, transferBytes: 260 * 32 });
  });

  it("takes bytes, blobs, sources and file sets, and does not close what the caller made", async () => {
    const { engine } = scripted();
    let closed = 0;
    const source: ByteSource = {
      ...memorySource(scriptedFile, "mine"),
      close: async () => {
        closed++;
      },
    };
    const locations = [
      scriptedFile,
      scriptedFile.slice().buffer,
      new Blob([scriptedFile.slice()]),
      new File([scriptedFile.slice()], "m.bin"),
      source,
      singleFile(memorySource(scriptedFile)),
    ];
    for (const location of locations) await (await engine.load(location)).dispose();
    expect(closed).toBe(0);
    for (const nothing of [undefined, null, 5, {}, []]) {
      await expect(engine.load(nothing as never)).rejects.toMatchObject({
        code: "bad-argument",
        reason: "location",
      });
    }
  });

  it("names what was tried when no format knows the file", async () => {
    const { engine } = scripted();
    await expect(engine.load(new Uint8Array(9))).rejects.toMatchObject({
      code: "format-unsupported",
      message: expect.stringContaining("Tried: scripted."),
    });
    const empty = createEngine({ platform: testPlatform() });
    await expect(empty.load(scriptedFile)).rejects.toMatchObject({ code: "format-unsupported" });
  });

  it("takes the surest format, and the first of equals", async () => {
    const unsure = {
      ...scriptedFormat(),
      name: "unsure",
      detect: async () => 0.4,
      open: () => Promise.reject(new Error("wrong one")),
    };
    const broken = { ...unsure, name: "broken", detect: () => Promise.reject(new Error("trouble")) };
    const format = scriptedFormat();
    const engine = createEngine({
      platform: testPlatform(),
      backends: [scriptedBackend()],
      plugins: [
        {
          name: "p",
          apiVersion: 1,
          formats: [broken, unsure, format],
          architectures: [scriptedArchitecture()],
        },
      ],
    });
    await using model = await engine.load(scriptedFile);
    expect(model.info.format).toBe("scripted");
    await expect(engine.load(new Uint8Array(9))).rejects.toThrow(/wrong one/);
    const onlyBroken = createEngine({
      platform: testPlatform(),
      plugins: [{ name: "p", apiVersion: 1, formats: [broken, format] }],
    });
    await expect(onlyBroken.load(new Uint8Array(9))).rejects.toThrow(/broken \(trouble\), scripted/);
  });

  it("lists the architectures it knows", async () => {
    const { load, format } = scripted({ format: { config: { architecture: "mamba" } } });
    await expect(load()).rejects.toMatchObject({
      code: "architecture-unsupported",
      message: expect.stringMatching(/"mamba".*Known are "scripted"/),
    });
    expect(format.openCount()).toBe(0);
  });

  it("names a missing weight and what the file has instead, before reading", async () => {
    const { load, format, backend } = scripted({
      format: {
        entries: (entries) =>
          entries.map((entry) => ({ ...entry, role: entry.role === "norm" ? undefined : entry.role })),
      },
    });
    await expect(load()).rejects.toMatchObject({
      code: "weight-missing",
      message: expect.stringMatching(/needs the weight norm.*does not know: "n.weight"/),
    });
    expect([format.read, format.openCount(), backend.created()]).toEqual([[], 0, 0]);
  });

  it("compares shapes with the architecture's", async () => {
    const { load } = scripted({
      format: {
        entries: (entries) =>
          entries.map((entry) => (entry.role === "embed" ? { ...entry, shape: [8, 260] } : entry)),
      },
    });
    await expect(load()).rejects.toMatchObject({
      code: "file-corrupt",
      reason: "shape",
      message: expect.stringMatching(
        /e.weight \(embed\) has the shape \[8, 260\], but scripted expects \[260, 8\]/,
      ),
    });
  });

  const wrong: [LoadOptions | Record<string, unknown>, string][] = [
    [{ contextLength: 0 }, "contextLength"],
    [{ contextLength: 4096 }, "contextLength"],
    [{ kvCache: "q4_0" }, "kvCache"],
    [{ sequences: 0 }, "sequences"],
    [{ memoryLimitBytes: -5 }, "memoryLimitBytes"],
    [{ onProgress: 1 }, "onProgress"],
    [{ threads: 0 }, "threads"],
    [{ thread: 4 }, "unknown-option"],
  ];
  it.each(wrong)("refuses %o", async (options, reason) => {
    const { load, format, backend } = scripted();
    await expect(load(options as LoadOptions)).rejects.toMatchObject({ code: "bad-argument", reason });
    expect([format.openCount(), backend.created() - backend.disposed()]).toEqual([0, 0]);
  });

  it("closes and frees everything when a weight cannot be read, or the signal fires", async () => {
    const failing = scripted({
      format: {
        onRead: (role) => {
          if (role === "norm") throw new LowbitError("file-corrupt", "cut", { reason: "truncated" });
        },
      },
    });
    await expect(failing.load()).rejects.toMatchObject({ reason: "truncated" });
    expect([failing.format.openCount(), failing.backend.disposed()]).toEqual([0, 1]);

    const controller = new AbortController();
    const aborted = scripted({ format: { onRead: () => controller.abort() } });
    await expect(aborted.load({ signal: controller.signal })).rejects.toMatchObject({ code: "aborted" });
    expect([aborted.format.openCount(), aborted.backend.disposed(), aborted.format.read]).toEqual([
      0,
      1,
      ["embed"],
    ]);
    await expect(aborted.load({ signal: controller.signal })).rejects.toMatchObject({ code: "aborted" });
  });
});

describe("backend choice", () => {
  const absent = (name: string, reason?: string): BackendFactory => ({
    name,
    probe: async () =>
      reason === undefined ? Promise.reject(new Error("probe broke")) : { available: false, reason },
    create: () => Promise.reject(new Error("must not be created")),
  });
  const engineWith = (...backends: BackendFactory[]) =>
    createEngine({
      platform: testPlatform(),
      backends,
      plugins: [{ name: "p", apiVersion: 1, formats: [scriptedFormat()] }],
      architectures: [scriptedArchitecture()],
    });

  it("takes the first that runs here, and tells why not another", async () => {
    await using model = await engineWith(absent("gpu", "no adapter"), absent("odd"), scriptedBackend()).load(
      scriptedFile,
    );
    expect(model.info.backend).toBe("scripted");
    expect(model.info.unavailable).toEqual(["gpu: no adapter", "odd: probe broke"]);
  });

  it("says why the wanted one does not run, or which there are", async () => {
    const engine = engineWith(absent("gpu", "no adapter"), scriptedBackend());
    await expect(engine.load(scriptedFile, { backend: "gpu" })).rejects.toMatchObject({
      code: "backend-unavailable",
      message: expect.stringMatching(/"gpu" does not run here. gpu: no adapter/),
    });
    await expect(engine.load(scriptedFile, { backend: "cuda" })).rejects.toMatchObject({
      code: "backend-unavailable",
      message: expect.stringMatching(/Known are "auto", "gpu" and "scripted"/),
    });
    await expect(engineWith(absent("gpu", "no adapter"), absent("odd")).load(scriptedFile)).rejects.toThrow(
      /gpu: no adapter; odd: probe broke/,
    );
  });
});

describe("memory plan", () => {
  it("refuses before reading any weight, with figures and what would fit", async () => {
    const tight = scripted({ memoryLimitBytes: 130_000 });
    await expect(tight.load({ contextLength: 2048, kvCache: "f32" })).rejects.toMatchObject({
      code: "out-of-memory",
      reason: "memory-plan",
      message: expect.stringMatching(
        /needs [\d.]+ kB \(weights 8.35 kB, cache for 2,048 tokens in f32 65.5 kB, activations [\d.]+ kB, tokenizer 52 kB\).*may take [\d.]+ kB/,
      ),
    });
    expect([tight.format.read, tight.format.openCount(), tight.backend.disposed()]).toEqual([[], 0, 1]);
  });

  it("chooses the largest default context that fits, and a hint that is true", async () => {
    const config = { layers: 64, contextLength: 2048 } as const;
    const limit = 700_000;
    const { load } = scripted({ memoryLimitBytes: limit, format: { config } });
    await using model = await load();
    const { plan } = model.info;
    const perPage = 64 * 8 * 32 * 2;
    expect(plan.contextLength).toBeGreaterThanOrEqual(256);
    expect(plan.contextLength).toBeLessThan(2048);
    expect(plan.requiredBytes).toBeLessThanOrEqual(plan.limitBytes);
    expect(plan.requiredBytes + perPage).toBeGreaterThan(plan.limitBytes);

    const error: LowbitError = await load({ contextLength: 2048 }).then(
      () => Promise.reject(new Error("it fits")),
      (reason) => reason,
    );
    const suggested = Number(/contextLength: (\d+)/.exec(error.message)?.[1]);
    await (await load({ contextLength: suggested })).dispose();
    await expect(load({ contextLength: suggested + 32 })).rejects.toMatchObject({ code: "out-of-memory" });
  });

  it("suggests q8_0 where that is enough", async () => {
    const { load } = scripted({
      memoryLimitBytes: 9_000_000,
      format: { config: { layers: 64, keySize: 32, valueSize: 32 } },
    });
    await expect(load({ contextLength: 2048 })).rejects.toThrow(/kvCache: "q8_0"/);
    await (await load({ contextLength: 2048, kvCache: "q8_0" })).dispose();
  });

  it("counts the weight in flight, which lies in host memory too, and the tokenizer", async () => {
    const { engine } = scripted({ format: { config: { layers: 1 } } });
    // The plan that needs least is the one that is told of when nothing fits.
    const { plan } = await engine.inspect(scriptedFile, { contextLength: 32, memoryLimitBytes: 1 });
    const { weightBytes = 0, kvBytes = 0, transferBytes = 0, hostBytes = 0, totalBytes = 0 } = plan ?? {};
    const need = hostBytes + Math.max(totalBytes, weightBytes + kvBytes + transferBytes);
    // The largest weight comes first, before the other one is there.
    expect(plan?.requiredBytes).toBeLessThanOrEqual(need);
    expect(plan?.requiredBytes).toBeGreaterThanOrEqual(need - weightBytes + transferBytes);
    await (
      await engine.load(scriptedFile, { contextLength: 32, memoryLimitBytes: plan?.requiredBytes ?? 0 })
    ).dispose();
    const less = engine.load(scriptedFile, {
      contextLength: 32,
      memoryLimitBytes: (plan?.requiredBytes ?? 0) - 1,
    });
    await expect(less).rejects.toMatchObject({ code: "out-of-memory" });
  });

  it("counts the backend's own limit, and names the model when nothing helps", async () => {
    const { load } = scripted({ backend: { limitBytes: 5000 } });
    await expect(load()).rejects.toThrow(/may take 57 kB. Choose a smaller model/);
  });
});

describe("inspect", () => {
  it("tells all without reading a weight or keeping anything open", async () => {
    const { engine, format, backend } = scripted();
    const inspection = await engine.inspect(scriptedFile, { contextLength: 512 });
    expect(inspection).toMatchObject({
      format: "scripted",
      parameters: 2088,
      problems: [],
      backend: { name: "scripted" },
    });
    expect(inspection.tensors.map(({ name, layout, backendBytes }) => [name, layout, backendBytes])).toEqual([
      ["e.weight", "dense f32", 260 * 32],
      ["n.weight", "f32", 32],
    ]);
    expect(inspection.plan).toMatchObject({ contextLength: 512, fits: true });
    expect([format.read, format.openCount(), backend.created() - backend.disposed()]).toEqual([[], 0, 0]);
  });

  it("plans for other limits too, with the cache that gives the longest context", async () => {
    const config = { layers: 64, keySize: 32, valueSize: 32, contextLength: 2048 } as const;
    const { engine, format } = scripted({ format: { config } });
    const limits = { wide: 1e9, narrow: 9_000_000, tiny: 1000 };
    const { fits } = await engine.inspect(scriptedFile, { limits });
    expect(Object.entries(fits).map(([name, { plan }]) => [name, plan.fits, plan.kv.type])).toEqual([
      ["wide", true, "f16"],
      ["narrow", true, "q8_0"],
      ["tiny", false, "f16"],
    ]);
    expect(fits.wide?.plan.contextLength).toBe(2048);
    const { narrow } = fits;
    expect(narrow?.plan.requiredBytes).toBeLessThanOrEqual(9_000_000);
    const { kv, contextLength } = narrow?.plan ?? {};
    const options = { memoryLimitBytes: 9_000_000, kvCache: kv?.type, contextLength };
    await (await engine.load(scriptedFile, options as LoadOptions)).dispose();
    expect(format.openCount()).toBe(0);
  });

  it("collects the reasons why a model would not load", async () => {
    const tight = scripted({ memoryLimitBytes: 20_000 });
    const { problems, plan } = await tight.engine.inspect(scriptedFile);
    expect(problems.map(({ code }) => code)).toEqual(["out-of-memory"]);
    expect(plan?.fits).toBe(false);
    const unknown = scripted({ format: { config: { architecture: "mamba" } } });
    const { problems: reasons, tensors } = await unknown.engine.inspect(scriptedFile, { backend: "gpu" });
    expect(reasons.map(({ code }) => code)).toEqual(["architecture-unsupported", "backend-unavailable"]);
    expect(tensors.length).toBe(2);
  });
});
