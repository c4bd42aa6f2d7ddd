import { LowbitError } from "@lowbit/core";

/** Throws unless `file` is a plain name: a format may not lead outside the model's own folder. */
export function checkFileName(file: string, folder: string): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a NUL would end the name in the operating system's eyes.
  if (file === "" || file === "." || file === ".." || /[/\\\u0000]/.test(file)) {
    throw new LowbitError("bad-argument", `${JSON.stringify(file)} is not a plain file name.`, {
      reason: "file-name",
      hint: `Files of a model lie side by side in ${folder}; names may hold no path.`,
    });
  }
}

/** The URL of `file` in the same folder as `url`, with the same query. */
export function siblingUrl(url: URL, file: string, name: string): URL {
  checkFileName(file, name);
  if (url.protocol === "blob:" || url.protocol === "data:") {
    throw new LowbitError("not-found", `${name} has no file ${JSON.stringify(file)} beside it.`, {
      reason: "missing-file",
    });
  }
  const sibling = new URL(url);
  sibling.pathname = url.pathname.slice(0, url.pathname.lastIndexOf("/") + 1) + encodeURIComponent(file);
  return sibling;
}

/** The scheme of a location, lower case, or undefined for a path ("C:\…" is a path). */
export function schemeOf(location: string): string | undefined {
  return /^([a-z][a-z0-9+.-]+):/i.exec(location)?.[1]?.toLowerCase();
}

export function unknownScheme(location: string, known: readonly string[]): LowbitError {
  return new LowbitError(
    "bad-argument",
    `Cannot load from ${JSON.stringify(location.slice(0, 200))}: unknown scheme.`,
    {
      reason: "scheme",
      hint: `Give ${known.join(", ")}.`,
    },
  );
}
