import { LowbitError, type Tokenizer, type ToolChoice } from "@lowbit/core";
import type { Dialect } from "./dialects.ts";
import type { Expressions } from "./expression.ts";
import type { Node, Nodes, Rule } from "./machine.ts";
import { isObject, schemaText } from "./schema.ts";
import { standardSchema } from "./standard-schema.ts";

export interface Tool {
  readonly name: string;
  /** JSON Schema of the arguments, as text. */
  readonly schema: string;
  /** Objects in the arguments have the named properties alone. */
  readonly closed: boolean;
  /** The arguments keep to the schema also where the model itself decides to call. */
  readonly strict: boolean;
}

/** OpenAI-style definitions, with or without the wrapper `{ type: "function", function }`. */
export function readTools(tools: readonly unknown[]): Tool[] {
  return tools.map((tool, index) => {
    const definition = isObject(tool) && isObject(tool.function) ? tool.function : tool;
    if (!isObject(definition) || typeof definition.name !== "string" || definition.name === "")
      throw badTools(
        `tool ${index} has no name`,
        'A tool is { type: "function", function: { name, description, parameters } }.',
      );
    const { name, parameters, strict } = definition;
    return { name, schema: argumentsText(parameters), closed: strict !== false, strict: strict === true };
  });
}

/** Arguments are an object, also where their schema does not say so. */
function argumentsText(parameters: unknown): string {
  const schema = parameters === undefined ? {} : standardSchema(parameters);
  return schemaText(isObject(schema) && schema.type === undefined ? { ...schema, type: "object" } : schema);
}

/** The tools that a forced call may be of; undefined where none is forced. */
export function forcedTools(tools: readonly Tool[], choice: ToolChoice): readonly Tool[] | undefined {
  if (choice === "auto" || choice === "none") return undefined;
  if (tools.length === 0)
    throw badTools("toolChoice asks for a call, but there are no tools", "Give tools, too.");
  if (choice === "required") return tools;
  const named = tools.filter(({ name }) => name === choice.name);
  if (named.length === 0)
    throw badTools(
      `toolChoice names ${JSON.stringify(choice.name).slice(0, 80)}, which is none of the tools`,
      `There are ${tools
        .map(({ name }) => JSON.stringify(name))
        .slice(0, 20)
        .join(", ")}.`,
    );
  return named;
}

function badTools(problem: string, hint: string): LowbitError {
  return new LowbitError("bad-argument", `Tools: ${problem}.`, { reason: "tools", plugin: "grammar", hint });
}

export interface CallParts {
  readonly nodes: Nodes;
  readonly expressions: Expressions;
  readonly tokenizer: Tokenizer;
  readonly dialect: Dialect;
  /** Rule of a tool's arguments. */
  readonly rule: (tool: Tool) => Rule;
}

/** Calls of these tools, as the dialect writes them: one, or more where `several` and the dialect allows. */
export function callNodes(tools: readonly Tool[], several: boolean, parts: CallParts): Node {
  const { nodes, expressions: e, dialect, rule } = parts;
  const { section = [[], []], call = [[], []], between, separator } = dialect.forced;
  const space = e.optional(e.bytes(" "));
  const write = (texts: readonly string[], next: Node): Node =>
    texts.reduceRight((after, text) => literal(text, after, parts), next);

  const next = nodes.branch([write(section[1], nodes.end)]);
  const choice = nodes.branch([]);
  const first = write(call[0], choice);
  if (several && separator) next.next.push(write(separator, first));
  for (const tool of tools) {
    if (between) {
      const input = write(between, nodes.call(rule(tool), write(call[1], next)));
      choice.next.push(nodes.text(e.bytes(tool.name), input));
      continue;
    }
    const close = nodes.text(e.bytes("}"), write(call[1], next));
    const head = e.sequence(
      e.bytes('{"name":'),
      space,
      e.bytes(JSON.stringify(tool.name)),
      e.bytes(","),
      space,
      e.bytes(`"${dialect.argumentsKey}":`),
      space,
    );
    choice.next.push(nodes.text(head, nodes.call(rule(tool), close)));
  }
  return write(section[0], first);
}

/** A special token where the text is one, else its bytes. */
function literal(text: string, next: Node, { nodes, expressions: e, tokenizer }: CallParts): Node {
  if (text === "\n?") return nodes.text(e.optional(e.bytes("\n")), next);
  const id = tokenizer.id(text);
  return id !== undefined && tokenizer.isSpecial(id)
    ? nodes.token(id, next)
    : nodes.text(e.bytes(text), next);
}
