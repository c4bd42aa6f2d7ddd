import { type ByteSource, checkRange, throwIfAborted } from "@lowbit/core";

/** A file that lies in pieces of one size, the last one shorter. */
export interface PiecedFile {
  /** For messages. */
  readonly name: string;
  readonly size: number;
  readonly pieceBytes: number;
  readonly version?: string | undefined;
  readonly sha256?: string | undefined;
}

export function pieceCount({ size, pieceBytes }: Pick<PiecedFile, "size" | "pieceBytes">): number {
  return Math.ceil(size / pieceBytes);
}

export function pieceLength({ size, pieceBytes }: PiecedFile, index: number): number {
  return Math.min(pieceBytes, size - index * pieceBytes);
}

/** Neighbours are read one after the other; a header and a table of a model lie in different pieces. */
const keptPieces = 2;

/**
 * A source over pieces that `load` gets, whole and checked. Those read last stay in memory, so that what lies side by side is got
 * once; of a long range, `parallel` pieces come at a time.
 */
export function piecedSource(
  file: PiecedFile,
  load: (index: number, signal: AbortSignal | undefined) => Promise<Uint8Array>,
  parallel: number,
  close?: () => Promise<void>,
): ByteSource {
  const { name, size, pieceBytes, version, sha256 } = file;
  const kept = new Map<number, Uint8Array>();
  const get = async (index: number, signal: AbortSignal | undefined): Promise<Uint8Array> => {
    const piece = kept.get(index) ?? (await load(index, signal));
    kept.delete(index);
    kept.set(index, piece);
    for (const oldest of kept.keys()) {
      if (kept.size <= keptPieces) break;
      kept.delete(oldest);
    }
    return piece;
  };
  return {
    name,
    size,
    ...(version !== undefined && { version }),
    ...(sha256 !== undefined && { sha256 }),
    async read(offset, length, signal) {
      throwIfAborted(signal);
      checkRange({ name, size }, offset, length);
      const out = new Uint8Array(length);
      if (length === 0) return out;
      const first = Math.floor(offset / pieceBytes);
      const count = Math.floor((offset + length - 1) / pieceBytes) - first + 1;
      await inParallel(count, parallel, async (i) => {
        const piece = await get(first + i, signal);
        const start = (first + i) * pieceBytes;
        const from = Math.max(0, offset - start);
        out.set(piece.subarray(from, Math.min(piece.length, offset + length - start)), start + from - offset);
      });
      return out;
    },
    async close() {
      kept.clear();
      await close?.();
    },
  };
}

/** Runs `body` for 0 to `count` − 1, at most `parallel` at a time; on a failure no further one starts. */
export async function inParallel(
  count: number,
  parallel: number,
  body: (index: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < count) {
      try {
        await body(next++);
      } catch (error) {
        next = count;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(parallel, count) }, work));
}
