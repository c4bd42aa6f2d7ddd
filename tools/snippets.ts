import { filesBelow, readText } from "./workspace.ts";

export interface Snippet {
  /** "README.md:41", for messages. */
  readonly where: string;
  readonly code: string;
}

/** Fenced blocks opened with "```ts runnable" in Markdown. */
export function runnableSnippets(path: string, markdown: string): Snippet[] {
  const lines = markdown.split("\n");
  return lines.flatMap((line, index) => {
    if (!/^```ts runnable\s*$/.test(line)) return [];
    const end = lines.indexOf("```", index + 1);
    if (end === -1) throw new Error(`${path}:${index + 1}: the block never ends.`);
    return [{ where: `${path}:${index + 1}`, code: lines.slice(index + 1, end).join("\n") }];
  });
}

/** Those of every Markdown file in the repository. */
export function repositorySnippets(): Snippet[] {
  return filesBelow("")
    .filter((path) => path.endsWith(".md"))
    .flatMap((path) => runnableSnippets(path, readText(path)));
}
