import {
  type ByteSource,
  blobSource,
  type FileSet,
  LowbitError,
  memorySource,
  type Platform,
  singleFile,
} from "@lowbit/core";

/**
 * Where a model comes from: a path or URL for the platform, a set of files, one file's bytes, or a source of them. Sources and
 * file sets that the caller made stay the caller's to close.
 */
export type ModelLocation = string | URL | FileSet | ByteSource | Blob | Uint8Array | ArrayBuffer;

/** The files behind a location. Throws `not-found`, or `bad-argument` for what is no location. */
export async function filesOf(
  location: ModelLocation,
  platform: Platform,
  signal?: AbortSignal,
): Promise<FileSet> {
  if (typeof location === "string" || location instanceof URL) return platform.files(location, signal);
  if (location instanceof Uint8Array) return singleFile(memorySource(location));
  if (location instanceof ArrayBuffer) return singleFile(memorySource(new Uint8Array(location)));
  if (typeof Blob !== "undefined" && location instanceof Blob) {
    const name = "name" in location && typeof location.name === "string" ? location.name : "blob";
    return singleFile(blobSource(location, name), name);
  }
  if (hasMethods(location, "list", "open")) return location as FileSet;
  if (hasMethods(location, "read") && "size" in location) return singleFile(location as ByteSource);
  throw new LowbitError("bad-argument", `load: the location is ${describe(location)}.`, {
    reason: "location",
    hint: "Give a path, a URL, a Blob, a Uint8Array, a ByteSource or a FileSet.",
  });
}

function hasMethods(value: unknown, ...names: string[]): value is object {
  return (
    typeof value === "object" &&
    value !== null &&
    names.every((name) => typeof (value as Record<string, unknown>)[name] === "function")
  );
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  return typeof value === "object" ? "an object of another kind" : `a ${typeof value}`;
}
