/** A FileSystemDirectoryHandle in memory, as far as it is used. */
export interface MemoryFolder {
  readonly name: string;
  readonly files: Map<string, Uint8Array>;
  readonly folders: Map<string, MemoryFolder>;
  /** Most bytes of one file. */
  quota: number;
  entries(): AsyncGenerator<[string, { kind: "file" | "directory" }]>;
  keys(): AsyncGenerator<string>;
  getFileHandle(name: string, options?: { create: boolean }): Promise<MemoryFile>;
  removeEntry(name: string): Promise<void>;
}

interface MemoryFile {
  getFile(): Promise<File>;
  createWritable(): Promise<{
    write(bytes: Uint8Array): Promise<void>;
    close(): Promise<void>;
    abort(): Promise<void>;
  }>;
}

const failed = (name: string): DOMException => new DOMException("", name);

export function memoryFolder(name: string): MemoryFolder {
  const folder: MemoryFolder = {
    name,
    files: new Map(),
    folders: new Map(),
    quota: Number.POSITIVE_INFINITY,
    async *entries() {
      for (const file of folder.files.keys()) yield [file, { kind: "file" }];
      for (const inner of folder.folders.keys()) yield [inner, { kind: "directory" }];
    },
    async *keys() {
      yield* folder.files.keys();
    },
    async getFileHandle(file, options) {
      if (folder.folders.has(file)) throw failed("TypeMismatchError");
      if (!folder.files.has(file) && options?.create !== true) throw failed("NotFoundError");
      return {
        async getFile() {
          const bytes = folder.files.get(file);
          if (bytes === undefined) throw failed("NotFoundError");
          return new File([Uint8Array.from(bytes)], file, { lastModified: 1 });
        },
        async createWritable() {
          const parts: Uint8Array[] = [];
          return {
            async write(bytes) {
              if (bytes.length > folder.quota) throw failed("QuotaExceededError");
              parts.push(bytes.slice());
            },
            async close() {
              folder.files.set(file, new Uint8Array(Buffer.concat(parts)));
            },
            async abort() {},
          };
        },
      };
    },
    async removeEntry(file) {
      if (!folder.files.delete(file)) throw failed("NotFoundError");
    },
  };
  return folder;
}
