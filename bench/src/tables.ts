import type { CellResult, EngineResult, Series } from "./results.ts";
import { typical } from "./results.ts";

/** Tokens per second that memory allows at most: each token reads all weights, and the keys and values of the context. */
export function roofline({ bandwidth, tokenBytes, kvBytes }: CellResult, context: number): number {
  return bandwidth.bytesPerSecond / (tokenBytes + kvBytes * context);
}

/** "12.3 [11.9–12.6]"; "(32)" behind it if it is of so many tokens instead of `size`. */
export function seriesText(series: Series | undefined, size: string): string {
  if (series === undefined) return "–";
  const { samples, tokens } = series;
  const range = `[${figure(Math.min(...samples))}–${figure(Math.max(...samples))}]`;
  const short = tokens === Number(size) ? "" : ` (${tokens})`;
  return `${figure(typical(series))}${samples.length > 1 ? ` ${range}` : ""}${short}`;
}

export function figure(value: number): string {
  if (!Number.isFinite(value)) return "–";
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** `engine` measured by `peer`, where both were. */
export function ratio(
  engine: EngineResult | undefined,
  peer: EngineResult | undefined,
  of: (result: EngineResult) => Series | undefined,
): number {
  const [own, other] = [engine && of(engine), peer && of(peer)];
  return own && other ? typical(own) / typical(other) : Number.NaN;
}

/** One file, for the terminal. */
export function cellTable(cell: CellResult): string {
  const keys = (part: "prefill" | "decode") =>
    [...new Set(cell.engines.flatMap((engine) => Object.keys(engine[part])))].sort((a, b) => +a - +b);
  const prompts = keys("prefill");
  const contexts = keys("decode");
  const head = [
    "engine",
    ...prompts.map((size) => `read ${size}, tokens/s`),
    ...contexts.map((size) => `write at ${size}, tokens/s`),
    "load ms",
    "open to token ms",
    "MB",
    "download kB",
  ];
  const rows = cell.engines.map((engine) => [
    engine.name,
    ...prompts.map((size) => seriesText(engine.prefill[size], size)),
    ...contexts.map((size) => seriesText(engine.decode[size], size)),
    Math.min(...engine.loadMs).toFixed(0),
    Math.min(...engine.openToFirstTokenMs).toFixed(0),
    engine.peakMemoryBytes === undefined ? "–" : (engine.peakMemoryBytes / 1e6).toFixed(0),
    engine.downloadBytes === undefined ? "–" : (engine.downloadBytes / 1e3).toFixed(0),
  ]);
  const roof = contexts.map((size) => `${figure(roofline(cell, +size))} at ${size}`).join(", ");
  const speed = (cell.bandwidth.bytesPerSecond / 1e9).toFixed(1);
  return [
    columns([head, ...rows]),
    `memory read at ${speed} GB/s (${cell.bandwidth.method}), which allows ${roof} tokens/s`,
    ...Object.entries(cell.absent).map(([name, reason]) => `${name} was left out: ${reason}`),
    ...cell.engines.flatMap(({ name, omitted }) =>
      Object.entries(omitted).map(([what, reason]) => `${name}, ${what}: ${reason}`),
    ),
    ...(cell.gates.some(({ disturbed }) => disturbed) ? ["some rounds began on a busy machine"] : []),
    `${cell.seconds} s`,
    "",
  ].join("\n");
}

function columns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => (row[i] ?? "").length)));
  return rows
    .map((row) =>
      row
        .map((text, i) => text.padEnd(widths[i] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
