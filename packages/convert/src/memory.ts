import {
  type FileSink,
  LowbitError,
  memorySource,
  type OutputPlace,
  type WritableFolder,
} from "@lowbit/core";

/** A folder in memory: for browsers, and for tests. */
export interface MemoryFolder extends WritableFolder {
  readonly files: ReadonlyMap<string, Uint8Array>;
}

export function memoryFolder(name = "memory", files: Map<string, Uint8Array> = new Map()): MemoryFolder {
  const add = (file: string, bytes: Uint8Array): void => {
    const before = files.get(file) ?? new Uint8Array(0);
    const after = new Uint8Array(before.length + bytes.length);
    after.set(before);
    after.set(bytes, before.length);
    files.set(file, after);
  };
  return {
    name,
    entry: undefined,
    files,
    list: () => Promise.resolve([...files.keys()]),
    async open(file) {
      const bytes = files.get(file);
      if (bytes === undefined) throw missing(name, file);
      return memorySource(bytes, file);
    },
    async create(file): Promise<FileSink> {
      let pieces: Uint8Array[] = [];
      files.set(file, new Uint8Array(0));
      return {
        async write(bytes) {
          pieces.push(bytes.slice());
        },
        async close() {
          add(file, joined(pieces));
          pieces = [];
        },
      };
    },
    async append(file, bytes) {
      add(file, bytes);
    },
    async remove(file) {
      if (!files.delete(file)) throw missing(name, file);
    },
  };
}

/** A place in memory: `files` are there once a conversion has ended. */
export interface MemoryOutput extends OutputPlace {
  readonly staging: MemoryFolder;
  /** Empty until everything is there. Of a single file, under the format's own name for it. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

export function memoryOutput(name = "memory"): MemoryOutput {
  const files = new Map<string, Uint8Array>();
  const staged = new Map<string, Uint8Array>();
  let result = memoryFolder(name);
  return {
    name,
    files,
    staging: memoryFolder(`${name} (unfinished)`, staged),
    async begin() {
      result = memoryFolder(name);
      return result;
    },
    async publish(file) {
      if (files.size > 0)
        throw new LowbitError("bad-argument", `${name} is there already.`, { reason: "exists" });
      for (const [key, bytes] of result.files) if (file === undefined || file === key) files.set(key, bytes);
      staged.clear();
    },
    async discard() {
      staged.clear();
    },
    async close() {},
  };
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(pieces.reduce((total, { length }) => total + length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

function missing(name: string, file: string): LowbitError {
  return new LowbitError("not-found", `${name} has no file ${JSON.stringify(file)}.`, {
    reason: "missing-file",
  });
}
