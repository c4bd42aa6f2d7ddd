import ts from "typescript";
import type { SourceFile } from "./workspace.ts";

/** What the layer check wants to know of one source file, from its syntax tree. */
export interface FileFacts {
  readonly lines: number;
  /** Specifiers of static, dynamic, type and re-export imports. */
  readonly imports: readonly string[];
  /** Lines with the type `any`. */
  readonly anyLines: readonly number[];
  /** Lines with a comment that switches the compiler or the linter off. */
  readonly suppressedLines: readonly number[];
  readonly platformGlobals: readonly { name: string; line: number }[];
  /** `eval`, `new Function`, WebAssembly compiled from bytes. */
  readonly generatedCode: readonly { name: string; line: number }[];
}

const platformNames: ReadonlySet<string> = new Set([
  "process",
  "Buffer",
  "global",
  "require",
  "__dirname",
  "__filename",
  "setImmediate",
  "Deno",
  "Bun",
  "window",
  "document",
  "navigator",
  "self",
  "localStorage",
]);
const compilers: ReadonlySet<string> = new Set(["compile", "compileStreaming", "instantiateStreaming"]);
const suppressions: RegExp = /@ts-(ignore|expect-error|nocheck)|biome-ignore.*noExplicitAny/;

export function fileFacts(source: SourceFile): FileFacts {
  const tree = ts.createSourceFile(source.path, source.text, ts.ScriptTarget.Latest, true);
  const lineOf = (node: ts.Node) => tree.getLineAndCharacterOfPosition(node.getStart(tree)).line + 1;
  const imports: string[] = [];
  const anyLines: number[] = [];
  const platformGlobals: { name: string; line: number }[] = [];
  const generatedCode: { name: string; line: number }[] = [];
  const declared = new Set<string>();

  const visit = (node: ts.Node): void => {
    const specifier = importSpecifier(node);
    if (specifier !== undefined) imports.push(specifier);
    if (node.kind === ts.SyntaxKind.AnyKeyword) anyLines.push(lineOf(node));
    const name = declaredName(node);
    if (name !== undefined) declared.add(name);
    if (ts.isIdentifier(node) && isReference(node) && platformNames.has(node.text)) {
      platformGlobals.push({ name: node.text, line: lineOf(node) });
    }
    const compiler = compilerName(node);
    if (compiler !== undefined) generatedCode.push({ name: compiler, line: lineOf(node) });
    ts.forEachChild(node, visit);
  };
  visit(tree);

  const text = source.text.split("\n");
  return {
    lines: text.length - (text.at(-1) === "" ? 1 : 0),
    imports: [...new Set(imports)],
    anyLines,
    suppressedLines: text.flatMap((line, index) => (suppressions.test(line) ? [index + 1] : [])),
    platformGlobals: platformGlobals.filter(({ name }) => !declared.has(name)),
    generatedCode,
  };
}

function importSpecifier(node: ts.Node): string | undefined {
  let target: ts.Node | undefined;
  if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) target = node.moduleSpecifier;
  else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
    target = node.arguments[0];
  } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) target = node.argument.literal;
  return target !== undefined && ts.isStringLiteralLike(target) ? target.text : undefined;
}

/** A name that this node brings into scope, so that it does not mean the global. */
function declaredName(node: ts.Node): string | undefined {
  if (ts.isVariableDeclaration(node) || ts.isParameter(node) || ts.isBindingElement(node)) {
    return ts.isIdentifier(node.name) ? node.name.text : undefined;
  }
  if (ts.isFunctionDeclaration(node) || ts.isClassDeclaration(node) || ts.isImportSpecifier(node)) {
    return node.name?.text;
  }
  return undefined;
}

/** Is this identifier the use of a variable, rather than a property's or declaration's name or part of a type? */
function isReference(node: ts.Identifier): boolean {
  const parent = node.parent;
  if (ts.isPropertyAccessExpression(parent)) {
    return parent.expression === node;
  }
  const named = parent as { name?: ts.Node };
  if (named.name === node) return ts.isShorthandPropertyAssignment(parent);
  if (ts.isImportSpecifier(parent) || ts.isExportSpecifier(parent) || ts.isTypeReferenceNode(parent))
    return false;
  return !ts.isTypeQueryNode(parent) && !ts.isLabeledStatement(parent);
}

function compilerName(node: ts.Node): string | undefined {
  if (ts.isNewExpression(node) || ts.isCallExpression(node)) {
    const callee = node.expression;
    if (ts.isIdentifier(callee) && (callee.text === "Function" || callee.text === "eval")) return callee.text;
    if (ts.isPropertyAccessExpression(callee) && callee.expression.getText() === "WebAssembly") {
      const name = callee.name.text;
      if (compilers.has(name) || (name === "Module" && ts.isNewExpression(node)))
        return `WebAssembly.${name}`;
    }
  }
  return undefined;
}
