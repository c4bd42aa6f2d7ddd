import type { TemplateNode } from "./template-library.ts";

/** How a node's parent uses its string: what is only passed on or joined as a rope costs no characters. */
type Role = "output" | "passed" | "spread" | "iterated" | "called";

/** What is derived from a program once and used by every rendering of it. */
export interface TemplatePlan {
  readonly program: TemplateNode;
  readonly roles: ReadonlyMap<unknown, Role>;
  /** Nodes under each macro and call block: the library scans them whenever the statement is evaluated. */
  readonly sizes: ReadonlyMap<unknown, number>;
}

/** Nodes that give no value of their own. */
export const statements: ReadonlySet<string> = new Set([
  "If",
  "For",
  "Set",
  "Macro",
  "Break",
  "Continue",
  "Comment",
]);

/** Walks the parsed template once. Throws RangeError where it nests too deep for the stack. */
export function planTemplate(program: TemplateNode): TemplatePlan {
  const roles = new Map<unknown, Role>();
  const sizes = new Map<unknown, number>();
  const markOutputs = (block: unknown): void => {
    for (const node of Array.isArray(block) ? (block as TemplateNode[]) : [])
      if (!statements.has(node.type)) roles.set(node, "output");
  };
  const visit = (item: unknown): number => {
    if (Array.isArray(item)) return item.reduce((sum: number, child) => sum + visit(child), 0);
    if (item instanceof Map) return visit([...item.keys()]) + visit([...item.values()]);
    if (typeof item !== "object" || item === null) return 0;
    const node = item as TemplateNode;
    for (const block of [node.body, node.alternate, node.defaultBlock]) markOutputs(block);
    if (node.type === "Set" && node.value) roles.set(node.value, "passed");
    if (node.type === "BinaryExpression" && isConcatenation(node))
      roles.set(node.left, "passed").set(node.right, "passed");
    if (node.type === "TestExpression" && !/^(lower|upper)$/.test((node.test as { value: string }).value))
      roles.set(node.operand, "passed");
    if (node.type === "SpreadExpression" || node.type === "KeywordSpreadExpression")
      roles.set(node.argument, "spread");
    if (node.type === "CallExpression") roles.set(node.callee, "called");
    if (node.type === "For") {
      const iterable = node.iterable as TemplateNode;
      roles.set(iterable.type === "SelectExpression" ? iterable.lhs : iterable, "iterated");
    }
    let size = 1;
    for (const child of Object.values(node)) size += visit(child);
    if (node.type === "Macro" || node.type === "CallStatement") sizes.set(node, size);
    return size;
  };
  visit(program);
  return { program, roles, sizes };
}

export function isConcatenation(node: TemplateNode): boolean {
  return ["+", "~"].includes((node.operator as { value: string }).value);
}
