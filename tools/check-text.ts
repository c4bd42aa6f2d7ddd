/** Keeps unfinished work and somebody's own machine out of every text in the tree. */
import { fileBytes, filesBelow, readText, type SourceFile } from "./workspace.ts";

interface Rule {
  readonly pattern: RegExp;
  readonly problem: string;
}

/** Written in pieces where the pattern itself would match. */
const rules: readonly Rule[] = [
  { pattern: /\b(TODO|FIXME|XXX|HACK)\b/, problem: "marks unfinished work; finish it or leave it out" },
  {
    pattern: /\bnot (yet )?implemented\b/i,
    problem: "names a missing part; throw what was found and what to do",
  },
  { pattern: /(?<![\w.~/-])\/(home|root|Users|work)\/\w/, problem: "holds a path of somebody's machine" },
  {
    pattern: /\.(only|skip)\((?!.*\(skipped: )/,
    problem: "switches tests off; use a suite that says why it is skipped",
  },
  { pattern: /<<<<<<< |>>>>>>> /, problem: "is a merge conflict" },
];

const texts = /\.(ts|mjs|js|c|h|sh|md|json|ya?ml|toml)$|(^|\/)(\.ci\/run|LICENSE)$/;
/** Data, generated glue, and this file, whose patterns match themselves. */
const exempt = /\/pkg\/|^models\/.*\.jsonl?$|^tools\/check-text(\.test)?\.ts$|^pnpm-lock\.yaml$/;
const maxTextBytes = 400_000;

export function checkText(files: readonly SourceFile[]): string[] {
  return files.flatMap(({ path, text }) =>
    text
      .split("\n")
      .flatMap((line, index) =>
        rules
          .filter(({ pattern }) => pattern.test(line))
          .map(({ problem }) => `${path}:${index + 1}: ${problem}.`),
      ),
  );
}

/** All breaches in this repository. */
export function checkRepositoryText(): string[] {
  const paths = filesBelow("").filter((path) => texts.test(path) && !exempt.test(path));
  return checkText(
    paths.filter((path) => fileBytes(path) <= maxTextBytes).map((path) => ({ path, text: readText(path) })),
  );
}

if (import.meta.main) {
  const problems = checkRepositoryText();
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length === 0 ? 0 : 1;
}
