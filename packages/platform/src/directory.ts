import { blobSource, type FileSet, LowbitError, throwIfAborted } from "@lowbit/core";
import { checkFileName } from "./names.ts";

/** What of a FileSystemDirectoryHandle is used: OPFS, or a folder that the user picked. */
export interface DirectoryReader {
  readonly name: string;
  entries(): AsyncIterable<[string, { readonly kind: "file" | "directory" }]>;
  getFileHandle(name: string): Promise<{ getFile(): Promise<File> }>;
}

/** The files of a folder in the origin private file system, or of one that the user picked; `entry` names the one that is meant. */
export function directoryFiles(handle: DirectoryReader, entry?: string): FileSet {
  const name = handle.name === "" ? "opfs:" : `opfs:${handle.name}`;
  if (entry !== undefined) checkFileName(entry, name);
  return {
    name: entry === undefined ? name : `${name}/${entry}`,
    entry,
    async list(signal) {
      throwIfAborted(signal);
      const names: string[] = [];
      for await (const [file, { kind }] of handle.entries()) if (kind === "file") names.push(file);
      return names;
    },
    async open(file, signal) {
      throwIfAborted(signal);
      checkFileName(file, name);
      const found = await handle.getFileHandle(file).catch((error: unknown) => {
        const folder = error instanceof Error && error.name === "TypeMismatchError";
        const what = folder ? `${file} is a folder` : `there is no file ${JSON.stringify(file)}`;
        throw new LowbitError("not-found", `${name}: ${what}.`, {
          reason: folder ? "not-a-file" : "missing-file",
          cause: error,
        });
      });
      // A File is a snapshot: where the file changes, reading it fails.
      const blob = await found.getFile();
      const source = blobSource(blob, `${name}/${file}`);
      return { ...source, version: `W/${blob.lastModified}` };
    },
  };
}
