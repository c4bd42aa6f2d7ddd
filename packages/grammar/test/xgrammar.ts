import { createRequire } from "node:module";
import type { Tokenizer } from "@lowbit/core";

type XGrammar = typeof import("@mlc-ai/web-xgrammar");

/**
 * The oracle. Its package calls itself a module but is a script: on import it looks for `require`, and leaves its exports in a
 * global.
 */
export async function loadXGrammar(): Promise<XGrammar> {
  const scope: { require?: unknown; __filename?: string; xgrammar?: XGrammar } = globalThis as object;
  const before = { require: scope.require, __filename: scope.__filename };
  scope.require = createRequire(import.meta.url);
  scope.__filename = "/";
  try {
    // The module itself has no exports, whatever its types say.
    await import("@mlc-ai/web-xgrammar" as string);
    if (scope.xgrammar === undefined) throw new Error("web-xgrammar left no exports");
    // The first call starts its WebAssembly module, which looks for the same names.
    await scope.xgrammar.Grammar.builtinJSONGrammar();
    return scope.xgrammar;
  } finally {
    if (before.require === undefined) delete scope.require;
    if (before.__filename === undefined) delete scope.__filename;
  }
}

export interface Oracle {
  /** Null where the oracle takes the text itself for wrong. */
  allowed(ids: readonly number[]): Promise<ReadonlySet<number> | undefined>;
  dispose(): void;
}

/** Its reading of a schema, with our white space: at most one space after comma and colon. */
export async function oracleOf(xgrammar: XGrammar, tokenizer: Tokenizer, schema: unknown): Promise<Oracle> {
  const written = await xgrammar.Testings._jsonSchemaToEBNF(
    JSON.stringify(schema),
    false,
    -1,
    [",", ":"],
    true,
  );
  const ebnf = written.replace(/"([,:]) ?"/g, '"$1" " "?');
  const vocabulary = Array.from({ length: tokenizer.vocabularySize }, (_, id) => tokenizer.token(id) ?? "");
  const info = await xgrammar.TokenizerInfo.createTokenizerInfo(
    vocabulary,
    "byte_level",
    false,
    vocabulary.length,
    [...tokenizer.endTokens],
  );
  const compiler = await xgrammar.GrammarCompiler.createGrammarCompiler(info);
  const compiled = await compiler.compileGrammar(await xgrammar.Grammar.fromEBNF(ebnf));
  const matcher = await xgrammar.GrammarMatcher.createGrammarMatcher(compiled);
  return {
    async allowed(ids) {
      matcher.reset();
      for (const id of ids) if (!matcher.acceptToken(id)) return undefined;
      const mask = await matcher.getNextTokenBitmask();
      const found = new Set<number>();
      for (let id = 0; id < vocabulary.length; id++) {
        if (mask[id >>> 5]! & (1 << (id & 31))) found.add(id);
      }
      return found;
    },
    dispose() {
      matcher.dispose();
      compiled.dispose();
      compiler.dispose();
      info.dispose();
    },
  };
}
