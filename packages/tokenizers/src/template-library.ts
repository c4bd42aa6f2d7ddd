import * as jinja from "@huggingface/jinja";

// The declarations of @huggingface/jinja import without file extensions, which strict module resolution does not
// follow, and name neither values nor nodes. This is what lowbit uses of version 0.5.11, typed.

/** A value of the template language; `value` holds the JavaScript string, number, array, Map or function. */
export interface TemplateValue {
  readonly type: string;
  value: unknown;
  /** Methods by name; made when first asked for. */
  readonly builtins: ReadonlyMap<string, TemplateValue>;
}

/** A node of a parsed template. */
export type TemplateNode = { readonly type: string } & { readonly [field: string]: unknown };

/** A function value's content. */
export type TemplateFunction = (args: TemplateValue[], scope: TemplateScope) => TemplateValue;

export interface TemplateScope {
  readonly parent?: TemplateScope;
  readonly variables: Map<string, TemplateValue>;
  /** Converts a JavaScript value and declares it; throws for a name declared before. */
  set(name: string, value: unknown): TemplateValue;
  setVariable(name: string, value: TemplateValue): TemplateValue;
}

export interface TemplateInterpreter {
  run(program: TemplateNode): TemplateValue;
  /** Every node passes here; the library calls it for each child. An absent node gives the undefined value. */
  evaluate(node: TemplateNode | undefined, scope: TemplateScope): TemplateValue;
}

export const Scope: new () => TemplateScope = jinja.Environment as unknown as new () => TemplateScope;
export const Interpreter: new (global: TemplateScope) => TemplateInterpreter =
  jinja.Interpreter as unknown as new (
    global: TemplateScope,
  ) => TemplateInterpreter;

/** Throws SyntaxError, TypeError or Error for text that is no template. Blocks are trimmed as Transformers does. */
export function parseTemplate(source: string): TemplateNode {
  return jinja.parse(jinja.tokenize(source, { trim_blocks: true, lstrip_blocks: true })) as TemplateNode;
}
