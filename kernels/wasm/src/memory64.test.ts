import { platform } from "@lowbit/platform";
import { testPlatform } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { backendOf, normals, randomOf, sameBits } from "../test/support.ts";
import { wasm } from "./index.ts";
import { createMemory, Heap } from "./memory.ts";

const gibibyte = 2 ** 30;

describe("64-bit addresses", () => {
  it("words of the list count in units of 16 bytes", () => {
    const memory = createMemory(2 ** 18, { shared: true, addressSize: 64 });
    const heap = new Heap(memory, 1024, 2 ** 34, 64);
    const address = heap.allocate(2 ** 20, "a test");
    expect(heap.word(address)).toBe(address / 16);
    heap.words[address / 4 + 2 ** 18 - 1] = 7;
    expect(heap.words.at(address / 4 + 2 ** 18 - 1)).toBe(7);
    expect(new Heap(new WebAssembly.Memory({ initial: 1 }), 1024, 2 ** 16).word(4096)).toBe(4096);
  });

  it("are taken for models that 4 GiB cannot hold, where nothing else was asked for", async () => {
    const described = async (options: Parameters<typeof wasm>[0], weightBytes: number): Promise<string> => {
      const here = { ...testPlatform(8 * gibibyte), threads: platform().threads! };
      const backend = await wasm(options).create(here, { threads: 1, weightBytes });
      const { description } = backend;
      await backend.dispose();
      return description;
    };
    expect(await described({}, 5 * gibibyte)).toContain("64-bit memory");
    expect(await described({}, gibibyte)).not.toContain("64-bit");
    expect(await described({ addressSize: 32 }, 5 * gibibyte)).not.toContain("64-bit");
    expect(await described({ variant: "simd128" }, 5 * gibibyte)).not.toContain("64-bit");
    expect(await described({ addressSize: 64 }, 0)).toContain("64-bit memory");
  });

  it("one thread and several give the same bits as 32-bit ones", async () => {
    const backends = await Promise.all([
      backendOf("relaxed"),
      backendOf("relaxed-memory64", 2 ** 28, 1),
      backendOf("relaxed-memory64", 2 ** 28, 3),
    ]);
    const x = normals(5 * 96, randomOf(3));
    const results: Float32Array[] = [];
    for (const backend of backends) {
      const y = backend.ops.softmax(backend.ops.constant(x, 5, 96));
      await backend.submit();
      results.push(await backend.read(y));
      await backend.dispose();
    }
    for (const result of results) expect(sameBits(result, results[0]!)).toBe(true);
  });

  it("contradictory wishes are refused", () => {
    expect(() => wasm({ addressSize: 48 as 64 })).toThrow(/addressSize is 48/);
    expect(() => wasm({ addressSize: 64, variant: "simd128" })).toThrow(/relaxed build alone/);
  });
});
