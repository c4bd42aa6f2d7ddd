import { LowbitError } from "@lowbit/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Heap, pageBytes } from "./memory.ts";

const mebibyte = 2 ** 20;
const heapOf = (limit = 64 * mebibyte, base = 1000): Heap =>
  new Heap(new WebAssembly.Memory({ initial: 1, maximum: 65_536 }), base, limit);

/** Free blocks and allocations must tile the heap, with no two free neighbours. */
function checkTiling(heap: Heap, live: ReadonlyMap<number, number>): void {
  const parts = [
    ...heap.freeBlocks.map(([start, size]) => ({ start, size, free: true })),
    ...Array.from(live, ([start, size]) => ({
      start,
      size: Math.max(64, Math.ceil(size / 64) * 64),
      free: false,
    })),
  ].sort((a, b) => a.start - b.start);
  let end = 1024;
  let free = false;
  for (const part of parts) {
    expect(part.start).toBe(end);
    expect(part.free && free, "free neighbours were not merged").toBe(false);
    end = part.start + part.size;
    free = part.free;
  }
  expect(end).toBe(heap.memory.buffer.byteLength);
}

describe("heap", () => {
  it("tiles memory without overlap whatever the order, and merges back into one block", () => {
    const action = fc.oneof(
      { weight: 3, arbitrary: fc.record({ allocate: fc.nat(300_000) }) },
      { weight: 2, arbitrary: fc.record({ release: fc.nat(1000) }) },
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 80 }), (actions) => {
        const heap = heapOf();
        const live = new Map<number, number>();
        for (const step of actions) {
          if ("allocate" in step) {
            live.set(heap.allocate(step.allocate, "a test"), step.allocate);
          } else if (live.size > 0) {
            const address = [...live.keys()][step.release % live.size]!;
            heap.release(address);
            live.delete(address);
          }
          checkTiling(heap, live);
        }
        for (const address of live.keys()) heap.release(address);
        expect(heap.freeBlocks).toEqual([[1024, heap.memory.buffer.byteLength - 1024]]);
        expect(heap.usedBytes).toBe(1024);
      }),
      { numRuns: 60 },
    );
  });

  it("reuses released memory instead of growing", () => {
    const heap = heapOf();
    const first = heap.allocate(10 * mebibyte, "a test");
    const size = heap.memory.buffer.byteLength;
    for (let i = 0; i < 100; i++) {
      heap.release(heap.allocate(mebibyte + i, "a test"));
    }
    heap.release(first);
    heap.allocate(10 * mebibyte, "a test");
    expect(heap.memory.buffer.byteLength).toBeLessThan(size + 2 * mebibyte);
  });

  it("refuses beyond the limit, with figures, and stays usable", () => {
    const heap = heapOf(2 * mebibyte);
    const address = heap.allocate(mebibyte, "a test");
    const attempt = (): number => heap.allocate(mebibyte, "The big thing");
    expect(attempt).toThrow(LowbitError);
    expect(attempt).toThrow(/The big thing needs 1\.0 MiB, .* 1\.0 MiB in use and the limit is 2\.0 MiB/);
    heap.release(address);
    heap.allocate(mebibyte, "a test");
    expect(heap.memory.buffer.byteLength).toBeLessThanOrEqual(2 * mebibyte);
  });

  it("fills memory to the last page of its limit", () => {
    const heap = heapOf(32 * pageBytes);
    heap.allocate(32 * pageBytes - 1024, "a test");
    expect(heap.usedBytes).toBe(32 * pageBytes);
  });

  it("gives fresh views after growth", () => {
    const heap = heapOf();
    const before = heap.bytes;
    heap.allocate(mebibyte, "a test");
    expect(before.length).toBe(0);
    expect(heap.bytes.length).toBe(heap.memory.buffer.byteLength);
    expect(heap.words.buffer).toBe(heap.floats.buffer);
  });

  it("refuses sizes that are none, and double releases", () => {
    const heap = heapOf();
    for (const bytes of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => heap.allocate(bytes, "a test")).toThrow(LowbitError);
    }
    const address = heap.allocate(100, "a test");
    heap.release(address);
    expect(() => heap.release(address)).toThrow(LowbitError);
  });
});
