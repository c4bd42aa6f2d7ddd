import { kvParts, kvPositionBytes } from "@lowbit/core";
import type { WasmKv } from "./kv.ts";
import { misuse } from "./recorder.ts";

/** A run of bytes that lies together in memory and in the portable form of a page. */
export interface PageRun {
  readonly address: number;
  /** Offset in the portable form. */
  readonly at: number;
  readonly size: number;
}

/**
 * Where the first `count` positions of a page lie. `given`: bytes that are to be written there. Throws `bad-argument` for a page or a
 * count that is not in the cache, or another number of bytes.
 */
export function pageCells(
  kv: WasmKv,
  page: number,
  count: number,
  given?: number,
): { cells: readonly PageRun[]; bytes: number } {
  const { address, layers, kvHeads, pages, pageTokens, layout } = kv;
  if (!Number.isInteger(page) || page < 0 || page >= pages) {
    throw misuse(`Page ${page} was to be read or written in a cache of ${pages}.`, "page");
  }
  if (!Number.isInteger(count) || count < 1 || count > pageTokens) {
    throw misuse(`${count} positions of a page of ${pageTokens} were to be read or written.`, "page");
  }
  const bytes = count * kvPositionBytes(kv);
  if (given !== undefined && given !== bytes) {
    throw misuse(`${given} bytes were to be written to a page; ${count} positions have ${bytes}.`, "page");
  }
  const parts = kvParts(kv);
  const starts = {
    keys: 0,
    values: layout.valuesAt,
    keyScales: layout.keyScalesAt,
    valueScales: layout.valueScalesAt,
  };
  const cells: PageRun[] = [];
  let at = 0;
  for (let layer = 0; layer < layers; layer++) {
    const base = address + (layer * pages + page) * layout.pageBytes;
    for (const { kind, cellBytes } of parts) {
      const size = count * cellBytes;
      for (let head = 0; head < kvHeads; head++, at += size) {
        cells.push({ address: base + starts[kind] + head * pageTokens * cellBytes, at, size });
      }
    }
  }
  return { cells, bytes };
}
