import { expect, it } from "vitest";
import { readBandwidth, readModule } from "./bandwidth.ts";

it("the loop reads every byte of its range, and none beyond", async () => {
  const { instance } = await WebAssembly.instantiate(readModule());
  const { memory, read } = instance.exports as {
    memory: WebAssembly.Memory;
    read(from: number, to: number): number;
  };
  const words = new Int32Array(memory.buffer);
  expect(read(0, 4096)).toBe(0);
  // Every fourth word lands in the lane that is told.
  for (let word = 0; word < 1024; word += 4) {
    words[word] = 77;
    expect(read(0, 4096)).toBe(77);
    words[word] = 0;
  }
  words[1024] = 77;
  expect(read(0, 4096)).toBe(0);
});

it("memory is read at some speed", async () => {
  const { bytesPerSecond, threads } = await readBandwidth(1, 1, 10);
  expect(threads).toBe(1);
  // Slower than the slowest of computers, or faster than any: then the clock or the count is wrong.
  expect(bytesPerSecond).toBeGreaterThan(1e8);
  expect(bytesPerSecond).toBeLessThan(1e13);
});
