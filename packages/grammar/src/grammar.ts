import type { AnswerRequest, CreateGrammar, Grammar, ResponseFormat, TokenConstraint } from "@lowbit/core";
import { createAnswerParser } from "./answer-parser.ts";
import { plainWriting } from "./characters.ts";
import { compileSchema } from "./compile.ts";
import { createConstraint } from "./constraint.ts";
import { type Dialect, dialectOf, generic, reasoningMarks } from "./dialects.ts";
import { explore } from "./explore.ts";
import { createExpressions, type Expressions } from "./expression.ts";
import {
  createMachine,
  createNodes,
  type Machine,
  measure,
  type Node,
  type Nodes,
  type Rule,
} from "./machine.ts";
import { createMasks, type Masks } from "./masks.ts";
import { compilePattern } from "./pattern.ts";
import { refuse, tooLarge } from "./refuse.ts";
import { schemaText } from "./schema.ts";
import { standardSchema } from "./standard-schema.ts";
import { callNodes, forcedTools, readTools, type Tool } from "./tools.ts";
import { createTokenTree, type TokenTree } from "./vocabulary.ts";

/** Grammars that are kept with all their tables. */
const keptMachines = 8;
/** Expressions and states beyond which tables are thrown away and begun anew: about 100 MB at worst, 5 MB in use. */
const mostExpressions = 60_000;
const mostStates = 50_000;

/** Tables of one vocabulary, shared by its grammars. */
interface Tables {
  readonly expressions: Expressions;
  readonly masks: Masks;
  readonly machines: Map<string, Machine>;
}

/** The grammar of a model, to be handed to `createEngine`. */
export const createGrammar: CreateGrammar = (tokenizer): Grammar => {
  let tree: TokenTree | undefined;
  let tables: Tables | undefined;
  const native = dialectOf(tokenizer);
  const reasoning = reasoningMarks(tokenizer);
  const closeThinking = reasoning && tokenizer.id(reasoning[1]);
  const opens = native.quote === undefined ? native.opens.map((open) => tokenizer.id(open)) : [];
  const callToken = opens.find((id) => id !== undefined);

  const currentTables = (): Tables => {
    if (tables === undefined || tables.expressions.size > mostExpressions) {
      tree ??= createTokenTree(tokenizer);
      const expressions = createExpressions();
      tables = { expressions, masks: createMasks(tree, expressions), machines: new Map() };
    }
    return tables;
  };

  const isThinking = ({ rendered }: AnswerRequest): boolean =>
    reasoning !== undefined && (rendered?.trimEnd().endsWith(reasoning[0]) ?? false);

  const machineOf = (plan: Plan, { expressions, machines }: Tables): Machine => {
    const key = JSON.stringify(plan);
    let machine = machines.get(key);
    if (machine === undefined || machine.size > mostStates) machine = compile(plan, expressions);
    machines.delete(key);
    machines.set(key, machine);
    if (machines.size > keptMachines) machines.delete(machines.keys().next().value!);
    return machine;
  };

  const compile = ({ format, tools, several, thinking }: Plan, expressions: Expressions): Machine => {
    const nodes = createNodes();
    const roots: Node[] = [];
    if (format) roots.push(formatNode(format, nodes, expressions));
    if (tools) {
      const rule = (tool: Tool): Rule =>
        compileSchema(tool.schema, nodes, expressions, { closed: tool.closed });
      const dialect = forcedDialect(native);
      roots.push(callNodes(tools, several, { nodes, expressions, tokenizer, dialect, rule }));
    }
    let root = nodes.branch(roots);
    // After a token that ends the reasoning: the blank lines that models write there. Without such a token, its text.
    if (thinking) {
      root = nodes.text(expressions.repeat(expressions.bytes("\n"), 0, 2), root);
      if (closeThinking === undefined) root = nodes.text(expressions.bytes(reasoning![1]), root);
    }
    measure(root, expressions);
    if (root.need === Number.POSITIVE_INFINITY)
      throw refuse(
        "#",
        "no finite text meets all its conditions",
        "Look for contradictions, and for types that always hold one of their own.",
      );
    const machine = createMachine(root, expressions);
    if (machine.start.configurations.length + machine.start.tokens.size === 0 && !machine.start.complete)
      throw tooLarge("#", "every text of it nests too deep");
    return machine;
  };

  const planOf = (request: AnswerRequest): Plan | undefined => {
    const { responseFormat, tools: definitions, toolChoice = "auto" } = request;
    const tools = definitions && toolChoice !== "none" ? readTools(definitions) : [];
    const forced = forcedTools(tools, toolChoice);
    const format =
      forced || responseFormat?.type === "text" ? undefined : responseFormat && readFormat(responseFormat);
    // Calls that begin with a token of their own can be kept to a schema even where the model decides to make them.
    const own = format || !tools.some(({ strict }) => strict) ? undefined : callToken;
    if (!forced && !format && own === undefined) return undefined;
    return {
      format,
      tools: forced ?? (tools.length > 0 ? tools : undefined),
      several: own === undefined && (toolChoice === "required" || toolChoice === "auto"),
      thinking: own === undefined && isThinking(request),
      own: forced ? undefined : own,
    };
  };

  return {
    constraint(request): TokenConstraint | undefined {
      const plan = planOf(request);
      if (plan === undefined) return undefined;
      const current = currentTables();
      const until = plan.own ?? (plan.thinking ? closeThinking : undefined);
      const kind = plan.own === undefined ? "reasoning" : "calls";
      const free = until === undefined ? undefined : ({ until, kind } as const);
      return createConstraint({ machine: machineOf(plan, current), masks: current.masks, tokenizer, free });
    },
    parser(request) {
      if (request.rendered === undefined) return undefined;
      const { tools = [], toolChoice = "auto" } = request;
      const offered = toolChoice === "none" ? [] : readTools(tools);
      if (offered.length === 0 && !reasoning) return undefined;
      const { type } = request.responseFormat ?? { type: "text" };
      const formed = type !== "text";
      const bound = formed || !["auto", "none"].includes(toolChoice as string);
      const dialect = offered.length === 0 ? undefined : bound ? forcedDialect(native) : native;
      const marks = [...(dialect?.opens ?? []), ...(dialect?.closes ?? []), ...(dialect?.fillers ?? [])];
      const texts = [...marks, ...(dialect ? headerMarks : []), dialect?.quote, ...(reasoning ?? [])];
      const ids = texts.map((text) => (text === undefined ? undefined : tokenizer.id(text)));
      return createAnswerParser({
        markers: new Set(ids.filter((id) => id !== undefined)),
        dialect,
        names: new Set(offered.map(({ name }) => name)),
        reasoning,
        thinking: isThinking(request),
        formed,
      });
    },
  };
};

/** What a grammar is made of; written as JSON, its key. */
interface Plan {
  readonly format: ReadFormat | undefined;
  readonly tools: readonly Tool[] | undefined;
  readonly several: boolean;
  readonly thinking: boolean;
  /** The token that begins a call, where the model decides whether there is one. */
  readonly own: number | undefined;
}

type ReadFormat = { readonly pattern: string } | { readonly schema: string; readonly closed: boolean };

function readFormat(format: ResponseFormat): ReadFormat | undefined {
  switch (format.type) {
    case "json_object":
      return { schema: '{"type":"object"}', closed: true };
    case "json_schema":
      return { schema: schemaText(standardSchema(format.schema)), closed: format.strict ?? true };
    case "regex":
      return { pattern: format.pattern };
    default:
      return undefined;
  }
}

function formatNode(format: ReadFormat, nodes: Nodes, expressions: Expressions): Node {
  if ("schema" in format) {
    const rule = compileSchema(format.schema, nodes, expressions, { closed: format.closed });
    return nodes.call(rule, nodes.end);
  }
  const pattern = compilePattern(expressions, `^(?:${format.pattern})$`, plainWriting, "#");
  if (!explore(expressions, pattern)) throw tooLarge("#", "the pattern has too many states");
  return nodes.text(pattern, nodes.end);
}

/** Where calls are not JSON, forced ones still are. */
function forcedDialect(dialect: Dialect): Dialect {
  return dialect.quote === undefined ? dialect : generic;
}

/** Special tokens that may stand inside a call. */
const headerMarks = ["[ARGS]", "[CALL_ID]", "<｜tool▁sep｜>"];
