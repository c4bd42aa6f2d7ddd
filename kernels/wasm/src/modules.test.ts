import { readFileSync } from "node:fs";
import { LowbitError, type Platform } from "@lowbit/core";
import { describe, expect, it } from "vitest";
import { moduleOf, variants } from "../test/support.ts";
import { moduleUrl } from "./module-url.ts";
import { chooseVariant, measureDots, supportsSimd } from "./modules.ts";

const modules = { simd128: moduleOf("simd128"), relaxed: moduleOf("relaxed") };

function platformOf(asked: string[] = [], now: () => number = () => performance.now()): Platform {
  return {
    name: "test",
    files: () => Promise.reject(new Error("no files here")),
    wasm: (url) => {
      const variant = url.pathname.includes("/relaxed/") ? "relaxed" : "simd128";
      asked.push(url.pathname.split("/").slice(-3).join("/"));
      return Promise.resolve(modules[variant]);
    },
    now,
    yield: () => Promise.resolve(),
    memoryLimitBytes: 2 ** 28,
  };
}

/** (module (import "env" "memory" (memory 1)) (func (export "selftest") (result i32) i32.const 0)) */
const miscomputing: WebAssembly.Module = new WebAssembly.Module(
  Uint8Array.of(
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, 0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7f],
    ...[0x02, 0x0f, 0x01, 0x03, ...Buffer.from("env"), 0x06, ...Buffer.from("memory"), 0x02, 0x00, 0x01],
    ...[0x03, 0x02, 0x01, 0x00, 0x07, 0x0c, 0x01, 0x08, ...Buffer.from("selftest"), 0x00, 0x00],
    ...[0x0a, 0x06, 0x01, 0x04, 0x00, 0x41, 0x00, 0x0b],
  ),
);

async function failure(promise: Promise<unknown>): Promise<{ code: string; reason: string | undefined }> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof LowbitError) return { code: error.code, reason: error.reason };
    throw error;
  }
  return { code: "none", reason: undefined };
}

describe("chooseVariant", () => {
  it("takes the relaxed build where the engine computes it right", async () => {
    expect(supportsSimd()).toBe(true);
    const asked: string[] = [];
    const chosen = await chooseVariant(platformOf(asked), { urls: moduleUrl });
    expect(chosen).toEqual({ variant: "relaxed", shared: false, addressSize: 32, module: modules.relaxed });
    expect(asked).toEqual(["pkg/relaxed/lowbit_kernels_bg.wasm"]);
  });

  it("takes what the user names, from where the user says", async () => {
    const asked: string[] = [];
    expect((await chooseVariant(platformOf(asked), { variant: "simd128", urls: moduleUrl })).variant).toBe(
      "simd128",
    );
    expect(asked).toEqual(["pkg/simd128/lowbit_kernels_bg.wasm"]);
    const { simd128, relaxed } = modules;
    expect((await chooseVariant(platformOf(asked), { modules: { simd128 } })).variant).toBe("simd128");
    expect((await chooseVariant(platformOf(asked), { modules: { simd128, relaxed } })).variant).toBe(
      "relaxed",
    );
    expect(asked).toHaveLength(1);
    expect(await failure(chooseVariant(platformOf(), { variant: "relaxed", modules: { simd128 } }))).toEqual({
      code: "backend-unavailable",
      reason: "no-module",
    });
  });

  it("falls back to simd128 where the known answers come out wrong", async () => {
    const wrong = { simd128: modules.simd128, relaxed: miscomputing };
    expect((await chooseVariant(platformOf(), { modules: wrong })).variant).toBe("simd128");
    expect(await failure(chooseVariant(platformOf(), { variant: "relaxed", modules: wrong }))).toEqual({
      code: "backend-unavailable",
      reason: "no-relaxed-simd",
    });
  });

  it("refuses a module of another kind", async () => {
    const empty = new WebAssembly.Module(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
    expect(await failure(chooseVariant(platformOf(), { modules: { relaxed: empty } }))).toEqual({
      code: "backend-unavailable",
      reason: "wrong-module",
    });
  });
});

describe("measureDots", () => {
  it("decides on the relaxed build only, and with any clock", async () => {
    const relaxed = { variant: "relaxed", shared: false, addressSize: 32, module: modules.relaxed } as const;
    expect(typeof (await measureDots(relaxed, platformOf())).wideDots).toBe("boolean");
    const frozen = await measureDots(
      relaxed,
      platformOf([], () => 0),
    );
    expect(frozen.wideDots).toBe(process.arch !== "x64");
    const simd128 = { variant: "simd128", shared: false, addressSize: 32, module: modules.simd128 } as const;
    expect(await measureDots(simd128, platformOf())).toBe(simd128);
  });
});

describe.each(variants)("the package around the %s module", (variant) => {
  const folder = new URL(`../pkg/${variant}/`, import.meta.url);
  const bytes = readFileSync(new URL("lowbit_kernels_bg.wasm", folder));
  const module = moduleOf(variant);

  it("initializes from bytes, a module, a response, and at once", async () => {
    const { default: init, initSync, createMemory, selftest } = await import(`${folder}lowbit_kernels.js`);
    const memory = createMemory(64);
    expect(initSync({ module: bytes }, memory).memory).toBe(memory);
    expect(selftest()).toBe(1);
    for (const input of [bytes, { module_or_path: module }, new Response(bytes), module]) {
      expect((await init(input)).selftest()).toBe(1);
    }
    await expect(init(new Response("", { status: 404 }))).rejects.toThrow(/404/);
  });

  it("declares what the module exports, and imports its memory alone", () => {
    const declared = readFileSync(new URL("lowbit_kernels_bg.wasm.d.ts", folder), "utf8");
    const names = [...declared.matchAll(/^export const (\w+):/gm)].map(([, name]) => name);
    expect(names).toEqual(WebAssembly.Module.exports(module).map(({ name }) => name));
    expect(WebAssembly.Module.imports(module)).toEqual([{ module: "env", name: "memory", kind: "memory" }]);
  });
});
