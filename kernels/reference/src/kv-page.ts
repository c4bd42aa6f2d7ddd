import { floatToHalf, halfToFloat, type KvPart, kvParts, kvPositionBytes, roundHalfEven } from "@lowbit/core";
import type { ReferenceKv } from "./kv.ts";
import { invalid } from "./tensor.ts";

/** The first `count` positions of a page in core's portable form (`KvPart`). */
export function readPage(kv: ReferenceKv, page: number, count: number): Uint8Array {
  const bytes = new Uint8Array(count * checkPage(kv, page, count));
  const view = new DataView(bytes.buffer);
  eachCell(kv, page, count, (kind, at, values) => {
    for (let i = 0; i < values.length; i++) {
      const value = values[i]!;
      if (kind === "keyScales" || kind === "valueScales") {
        if (i % 32 === 0) view.setUint16(at + i / 16, floatToHalf(blockScale(values, i)), true);
      } else if (kv.type === "q8_0") view.setInt8(at + i, codeOf(value, blockScale(values, i - (i % 32))));
      else if (kv.type === "f16") view.setUint16(at + 2 * i, floatToHalf(value), true);
      else view.setFloat32(at + 4 * i, value, true);
    }
  });
  return bytes;
}

/** Puts them back. Codes come before their scales, so a block's codes stand in the cache until it is scaled. */
export function writePage(kv: ReferenceKv, page: number, count: number, bytes: Uint8Array): void {
  const wanted = count * checkPage(kv, page, count);
  if (bytes.length !== wanted) {
    throw invalid(
      `${bytes.length} bytes were to be written to a page; ${count} positions have ${wanted}.`,
      "page",
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  eachCell(kv, page, count, (kind, at, values) => {
    for (let i = 0; i < values.length; i++) {
      if (kind === "keyScales" || kind === "valueScales") {
        values[i] = values[i]! * halfToFloat(view.getUint16(at + 2 * Math.floor(i / 32), true));
      } else if (kv.type === "q8_0") values[i] = view.getInt8(at + i);
      else if (kv.type === "f16") values[i] = halfToFloat(view.getUint16(at + 2 * i, true));
      else values[i] = view.getFloat32(at + 4 * i, true);
    }
  });
}

/** The cells of the form in order: which part, its offset, and the values in the store that it is about. */
function eachCell(
  kv: ReferenceKv,
  page: number,
  count: number,
  body: (kind: KvPart["kind"], at: number, values: Float32Array) => void,
): void {
  let at = 0;
  for (let layer = 0; layer < kv.layers; layer++) {
    for (const { kind, cellBytes } of kvParts(kv)) {
      const ofKeys = kind === "keys" || kind === "keyScales";
      const store = ofKeys ? kv.keys(layer) : kv.values(layer);
      const size = ofKeys ? kv.keySize : kv.valueSize;
      for (let head = 0; head < kv.kvHeads; head++) {
        for (let slot = 0; slot < count; slot++, at += cellBytes) {
          const from = ((page * kv.pageTokens + slot) * kv.kvHeads + head) * size;
          body(kind, at, store.subarray(from, from + size));
        }
      }
    }
  }
}

/** The store holds rounded values; as a block's largest code is 127, they tell its scale. */
function blockScale(values: Float32Array, from: number): number {
  let most = 0;
  for (let i = from; i < from + 32; i++) most = Math.max(most, Math.abs(values[i]!));
  return halfToFloat(floatToHalf(most / 127));
}

function codeOf(value: number, scale: number): number {
  return scale === 0 ? 0 : Math.max(-127, Math.min(127, roundHalfEven(value / scale)));
}

/** Bytes of a position. Throws `bad-argument` for a page or a count that is not in the cache. */
function checkPage(kv: ReferenceKv, page: number, count: number): number {
  if (!Number.isInteger(page) || page < 0 || page >= kv.pages) {
    throw invalid(`Page ${page} was to be read or written in a cache of ${kv.pages}.`, "page");
  }
  if (!Number.isInteger(count) || count < 1 || count > kv.pageTokens) {
    throw invalid(`${count} positions of a page of ${kv.pageTokens} were to be read or written.`, "page");
  }
  return kvPositionBytes(kv);
}
