import { closeSync, fstatSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type ByteSource, checkRange, type FileSet, LowbitError } from "@lowbit/core";

/** A file set that counts what is open and what was read, so that tests can see leaks and greedy reads. */
export interface TrackedFiles extends FileSet {
  /** Sources that were opened and not closed. */
  openSources(): number;
  bytesRead(): number;
  reads(): number;
}

/** Files in memory by name, or a local path: a file, or a folder. */
export function trackedFiles(
  place: string | Readonly<Record<string, Uint8Array>>,
  entry?: string,
): TrackedFiles {
  const count = { open: 0, bytes: 0, reads: 0 };
  const names = typeof place === "string" ? undefined : Object.keys(place);
  const isFolder = typeof place === "string" && statSync(place).isDirectory();
  const folder = typeof place !== "string" || isFolder ? String(place) : dirname(place);
  const single = typeof place === "string" && !isFolder ? basename(place) : undefined;
  return {
    name: typeof place === "string" ? place : "memory",
    entry: entry ?? single,
    list: () => Promise.resolve(names ?? readdirSync(folder)),
    async open(file) {
      const reader = typeof place === "string" ? fileReader(join(folder, file)) : memoryReader(place, file);
      let open = true;
      count.open++;
      const source: ByteSource = {
        name: file,
        size: reader.size,
        async read(offset, length) {
          if (!open) throw new Error(`${file} was read after it was closed`);
          checkRange({ name: file, size: reader.size }, offset, length);
          count.bytes += length;
          count.reads++;
          return reader.read(offset, length);
        },
        async close() {
          if (open) {
            count.open--;
            reader.close();
          }
          open = false;
        },
      };
      return source;
    },
    openSources: () => count.open,
    bytesRead: () => count.bytes,
    reads: () => count.reads,
  };
}

interface Reader {
  readonly size: number;
  read(offset: number, length: number): Uint8Array;
  close(): void;
}

function fileReader(path: string): Reader {
  let handle: number;
  try {
    handle = openSync(path, "r");
  } catch (cause) {
    throw missing(path, cause);
  }
  return {
    size: fstatSync(handle).size,
    read(offset, length) {
      const bytes = new Uint8Array(length);
      readSync(handle, bytes, 0, length, offset);
      return bytes;
    },
    close: () => closeSync(handle),
  };
}

function memoryReader(files: Readonly<Record<string, Uint8Array>>, file: string): Reader {
  const bytes = files[file];
  if (bytes === undefined) throw missing(file, undefined);
  return {
    size: bytes.length,
    read: (offset, length) => bytes.slice(offset, offset + length),
    close: () => undefined,
  };
}

function missing(file: string, cause: unknown): LowbitError {
  return new LowbitError("not-found", `There is no file ${file}.`, { reason: "missing-file", cause });
}
