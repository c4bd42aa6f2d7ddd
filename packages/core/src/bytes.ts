import { LowbitError } from "./errors.ts";

/** Random access to the bytes of one file, wherever it lies. Reads are independent and may overlap in time. */
export interface ByteSource {
  /** For messages: a path, a URL or a label. */
  readonly name: string;
  /** Bytes in all. */
  readonly size: number;
  /** Changes when the bytes do: an ETag, or the like. Starts with `W/` where equal versions need not be equal bytes. */
  readonly version?: string;
  /** SHA-256 of all bytes in lower-case hexadecimal, as whoever keeps the file states it. */
  readonly sha256?: string;
  /** What `read` gives is the caller's alone, to be changed or freed. */
  readonly disposable?: boolean;
  /** Exactly `length` bytes from `offset`; a source that cannot deliver them throws `file-corrupt`/`truncated`. */
  read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array>;
  close?(): Promise<void>;
}

/** Where a writer puts bytes, in order. It may use an array only until it resolves. */
export interface ByteSink {
  write(bytes: Uint8Array): Promise<void> | void;
}

/** A new file being written; `close` resolves when its bytes are safe. */
export interface FileSink extends ByteSink {
  write(bytes: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** The files of one checkpoint: a single file, or a directory. Names are plain: no separators, no `..`. */
export interface FileSet {
  /** For messages: the path or URL the user gave. */
  readonly name: string;
  /** The file the user pointed at; undefined if they pointed at a directory. */
  readonly entry: string | undefined;
  list(signal?: AbortSignal): Promise<readonly string[]>;
  /** Throws `not-found` if there is no such file. The caller closes the source. */
  open(file: string, signal?: AbortSignal): Promise<ByteSource>;
}

/** A folder that is written to: long work leaves its state here, and goes on from it after an interruption. */
export interface WritableFolder extends FileSet {
  /** Starts the file anew. */
  create(file: string): Promise<FileSink>;
  /** Adds to the end of the file, made if absent; the bytes are safe when it resolves. */
  append(file: string, bytes: Uint8Array): Promise<void>;
  /** Throws `not-found`. */
  remove(file: string): Promise<void>;
}

/** Where a new file or folder appears under its name only when it is whole. Until then work lies beside it. */
export interface OutputPlace {
  /** For messages. */
  readonly name: string;
  /** What a run leaves for a later one to go on from. */
  readonly staging: WritableFolder;
  /** A new, empty folder for the finished files. */
  begin(): Promise<Pick<WritableFolder, "create">>;
  /**
   * Gives the finished files the final name at once: the whole folder, or only `file` of it; then removes what was staged. Throws
   * `bad-argument`/`exists` where something stands under the name that may not be replaced.
   */
  publish(file?: string): Promise<void>;
  /** Removes what was staged. */
  discard(): Promise<void>;
  /** Lets others use the place; what was staged stays. */
  close(): Promise<void>;
}

/** Checks a range against the source's size, so that implementations need not. */
export function checkRange(source: Pick<ByteSource, "name" | "size">, offset: number, length: number): void {
  const valid = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (!valid || offset + length > source.size) {
    throw new LowbitError(
      "file-corrupt",
      `${source.name}: wanted bytes ${offset} to ${offset + length}, but the file has ${source.size}.`,
      { reason: "truncated", hint: "The file is cut short or damaged; fetch it again." },
    );
  }
}

/** A source over bytes in memory. Reads are views, not copies. */
export function memorySource(bytes: Uint8Array, name = "memory"): ByteSource {
  return {
    name,
    size: bytes.byteLength,
    read(offset, length) {
      try {
        checkRange({ name, size: bytes.byteLength }, offset, length);
      } catch (error) {
        return Promise.reject(error);
      }
      return Promise.resolve(bytes.subarray(offset, offset + length));
    },
  };
}

/** A source over a Blob or File: each read touches only its own range. */
export function blobSource(blob: Blob, name = "blob"): ByteSource {
  return {
    name,
    size: blob.size,
    async read(offset, length) {
      checkRange({ name, size: blob.size }, offset, length);
      return new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
    },
  };
}

/** A file set with the one given source, which its owner closes: it may be opened more than once. */
export function singleFile(source: ByteSource, file = "model"): FileSet {
  const { name, size } = source;
  const opened: ByteSource = {
    name,
    size,
    read: (offset, length, signal) => source.read(offset, length, signal),
  };
  return {
    name: source.name,
    entry: file,
    list: () => Promise.resolve([file]),
    open: (wanted) =>
      wanted === file
        ? Promise.resolve(opened)
        : Promise.reject(
            new LowbitError(
              "not-found",
              `${source.name}: there is no file ${JSON.stringify(wanted)} beside it.`,
              {
                reason: "missing-file",
              },
            ),
          ),
  };
}

/** Frees the memory of bytes that own their buffer, where the engine can; of others nothing. They are empty afterwards. */
export function freeBytes(bytes: Uint8Array): void {
  const { buffer } = bytes;
  if (buffer instanceof ArrayBuffer && buffer.byteLength === bytes.byteLength && "transfer" in buffer) {
    (buffer.transfer as (size: number) => void)(0);
  }
}
