import { describe, expect, it } from "vitest";
import { pageOf } from "./page.ts";
import { svgOf } from "./plot.ts";
import { merged } from "./report.ts";
import type { CellResult, EngineResult, RunResult, Series } from "./results.ts";
import { typical } from "./results.ts";
import { cellTable, seriesText } from "./tables.ts";

const series = (tokens: number, ...samples: number[]): Series => ({
  tokens,
  samples,
  disturbed: samples.map(() => false),
});

function engine(
  name: string,
  decode: number,
  prefill: number,
  more: Partial<EngineResult> = {},
): EngineResult {
  return {
    name,
    version: "1.2.3",
    description: "as it is",
    loadMs: [900, 1000, 1100],
    openToFirstTokenMs: [1200],
    prefill: { 512: series(512, prefill, prefill * 1.5, prefill * 0.5) },
    firstTokenMs: { 512: [512_000 / prefill] },
    decode: { 128: series(128, decode), 2048: series(2048, decode * 0.8) },
    omitted: {},
    ...more,
  };
}

function cell(threads: number, speed: number, more: Partial<CellResult> = {}): CellResult {
  return {
    ...{ shape: "qwen2.5-0.5b", type: "Q4_0", threads, date: "2026-01-02T03:04:05Z", seconds: 60 },
    ...{ fileBytes: 350e6, tokenBytes: 340e6, kvBytes: 10_000, decodeTokens: 32 },
    bandwidth: { threads, bytesPerSecond: 34.128e9 * threads, method: "by reading" },
    gates: [{ waitedMs: 1000, busyShare: 0.01, disturbed: false }],
    engines: [
      engine("lowbit", 50 * speed, 200 * speed, { peakMemoryBytes: 400e6 }),
      engine("lowbit-chromium", 40 * speed, 160 * speed, { downloadBytes: 148_000 }),
      engine("wllama231", 20 * speed, 25 * speed, {
        omitted: { "context 4096": "one pass would take 90 s" },
      }),
    ],
    absent: { "node-llama-cpp": "it does not run here" },
    ...more,
  };
}

const machine = { cpu: "A CPU", cores: 2, memoryBytes: 2 ** 34, system: "linux x64", node: "v24.0.0" };
const run = (...cells: CellResult[]): RunResult => ({ schema: 1, machine, command: "npm run bench", cells });
const titles = {
  lowbit: "lowbit, Node.js",
  "lowbit-chromium": "lowbit, Chromium",
  wllama231: "wllama 2.3.1",
  "node-llama-cpp": "native",
};

describe("the page", () => {
  const { markdown, charts, names } = pageOf(run(cell(1, 1), cell(2, 1.5)), titles);
  const rows = markdown.split("\n").filter((line) => line.startsWith("| "));

  it("has ratios to the others in the same run", () => {
    expect(rows).toContain("| qwen2.5-0.5b | Q4_0 | 1 | 128 | 2.50× | 2.00× | – | – |");
    expect(rows).toContain("| qwen2.5-0.5b | Q4_0 | 2 | 512 | 8.00× | 6.40× | – | – |");
  });

  it("holds decoding against what memory allows, a long context against a short one, threads against one", () => {
    // 34.128e9 / (340e6 + 128 · 10,000) = 100 tokens a second.
    expect(rows).toContain("| qwen2.5-0.5b | Q4_0 | 1 | Node.js | 340 | 100 | 50 % | 80 % at 2048 | – | – |");
    expect(rows).toContain(
      "| qwen2.5-0.5b | Q4_0 | 2 | Node.js | 340 | 200 | 38 % | 80 % at 2048 | 1.50× | 1.50× |",
    );
  });

  it("has every figure with its range, and what starting takes", () => {
    expect(rows).toContain("| Q4_0 | 1 | lowbit, Node.js | 1 to 3 | 200 [100–300] | 50.0 | 40.0 | 2560 |");
    expect(rows).toContain(
      "| qwen2.5-0.5b | Q4_0 | lowbit, Node.js | 3 | 1000 [900–1100] | 1200 | 400 | 350 | – |",
    );
    expect(rows.find((row) => row.includes("lowbit, Chromium | 3"))).toMatch(/\| – \| 350 \| 148 \|$/);
  });

  it("says what was not measured, and on what machine the rest was", () => {
    expect(rows).toContain("| qwen2.5-0.5b | Q4_0 | 1 | native | it does not run here |");
    expect(rows).toContain(
      "| qwen2.5-0.5b | Q4_0 | 1 | wllama 2.3.1, context 4096 | one pass would take 90 s |",
    );
    expect(markdown).toContain("A CPU, 2 cores, 16 GiB, linux x64, Node.js v24.0.0");
    expect(markdown).toContain("34.1 GB/s on 1 thread, 68.3 GB/s on 2 threads");
  });

  it("has a plot of the same figures", async () => {
    expect(names).toEqual(["lowbit, Node.js", "lowbit, Chromium", "wllama 2.3.1"]);
    expect(charts.map(({ bars }) => bars.length)).toEqual([6, 6]);
    expect(charts[0]?.bars[0]).toMatchObject({ value: 50, roof: 100, column: "Q4_0", row: "1 thread" });
    const svg = await svgOf(charts, names);
    expect(svg).toMatch(/^<svg [^>]*xmlns="http:\/\/www.w3.org\/2000\/svg"/);
    for (const text of ["lowbit, Chromium", "2 threads", "what memory allows", "tokens/s"])
      expect(svg).toContain(text);
    // Bars for every engine, in both charts and rows of it; a line of the roof for each of those that decode.
    expect(svg.match(/fill="#d9822b"/g)).toHaveLength(4);
    expect(svg.match(/fill="#c00000"/g)).toHaveLength(6);
  });

  it("needs results", () => {
    expect(() => pageOf(run(), titles)).toThrow("no results");
  });
});

it("the fastest reading of memory counts for every cell", () => {
  const slow = cell(1, 1, {
    type: "Q8_0",
    bandwidth: { threads: 1, bytesPerSecond: 1e9, method: "by reading" },
  });
  expect(pageOf(run(cell(1, 1), slow), titles).markdown).toContain(
    "| qwen2.5-0.5b | Q8_0 | 1 | Node.js | 340 | 100 |",
  );
});

it("a ratio to shorter passes is in italics", () => {
  const { engines } = cell(1, 1);
  const shorter = engine("wllama231", 20, 25, { prefill: { 512: series(128, 25) } });
  const { markdown } = pageOf(run(cell(1, 1, { engines: [...engines.slice(0, 2), shorter] })), titles);
  expect(markdown).toContain("| qwen2.5-0.5b | Q4_0 | 1 | 512 | *8.00×* | *6.40×* | – | – |");
  expect(markdown).toContain("| qwen2.5-0.5b | Q4_0 | 1 | 128 | 2.50× | 2.00× | – | – |");
});

it("medians leave disturbed rounds out where enough others are left", () => {
  const disturbed = [false, true, false, false];
  expect(typical({ tokens: 1, samples: [10, 1, 11, 12], disturbed })).toBe(11);
  expect(typical({ tokens: 1, samples: [10, 1, 11], disturbed: [false, true, false] })).toBe(10);
});

it("shorter passes are marked", () => {
  expect(seriesText(series(128, 5.25, 5.75), "512")).toBe("5.50 [5.25–5.75] (128)");
  expect(seriesText(series(512, 100), "512")).toBe("100");
  expect(seriesText(undefined, "512")).toBe("–");
});

it("runs are merged on one machine alone, and the latest cell counts", () => {
  const later = cell(1, 2, { date: "2026-01-03T00:00:00Z" });
  const { cells } = merged([run(cell(1, 1), cell(2, 1)), run(later)]);
  expect(cells).toHaveLength(2);
  expect(cells[0]).toBe(later);
  expect(merged([run(later), run(cell(1, 1))]).cells).toEqual([later]);
  const other = { ...run(later), machine: { ...machine, cpu: "Another" } };
  expect(() => merged([run(cell(1, 1)), other])).toThrow("different machines");
});

it("the terminal sees the same", () => {
  const table = cellTable(cell(1, 1));
  expect(table).toMatch(/lowbit +200 \[100–300\] +50\.0 +40\.0 +900 +1200 +400 +–/);
  expect(table).toContain("node-llama-cpp was left out: it does not run here");
});
