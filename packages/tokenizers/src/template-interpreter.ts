import { sizeOf, type TemplateBudget, templateOverBudget } from "./template-budget.ts";
import {
  Interpreter,
  type TemplateFunction,
  type TemplateNode,
  type TemplateScope,
  type TemplateValue,
} from "./template-library.ts";
import { isConcatenation, statements, type TemplatePlan } from "./template-plan.ts";

// Evaluations may nest this deep; each takes about four JavaScript frames.
const maxDepth = 400;
// The library builds scopes, a `loop` object and closures for each pass, or a table of methods for a value whose
// method is asked for: near a kilobyte each, so they cost more than a node.
const stepsPerIteration = 8;
const stepsPerMethodTable = 16;
const stepsPerMapping = 4;

/** A node that stands for a value already computed. */
function evaluated(value: TemplateValue): TemplateNode {
  return { type: "Evaluated", value };
}

/**
 * The library's interpreter with a price on everything. `evaluate` is the one door through which each node
 * passes; where a single node hides unbounded work (joining, replacing, sorting, printing nested lists, …) the
 * operands are evaluated first, the work is priced from their sizes, and the library is handed the finished values.
 */
export class BudgetedInterpreter extends Interpreter {
  readonly #plan: TemplatePlan;
  readonly #budget: TemplateBudget;
  readonly #priced = new WeakSet<TemplateValue>();
  #depth = 0;

  constructor(scope: TemplateScope, plan: TemplatePlan, budget: TemplateBudget) {
    super(scope);
    this.#plan = plan;
    this.#budget = budget;
  }

  override evaluate(node: TemplateNode | undefined, scope: TemplateScope): TemplateValue {
    if (node === undefined) return super.evaluate(node, scope);
    if (node.type === "Evaluated") return node.value as TemplateValue;
    this.#budget.charge(1);
    if (++this.#depth > maxDepth) throw templateOverBudget(`it nests more than ${maxDepth} levels deep`);
    try {
      // `first` and `last` of an empty list give a bare undefined in the library.
      const value = this.#dispatch(node, scope) ?? super.evaluate(undefined, scope);
      this.#account(value, node);
      return value;
    } finally {
      this.#depth--;
    }
  }

  #dispatch(node: TemplateNode, scope: TemplateScope): TemplateValue {
    switch (node.type) {
      case "Identifier":
        return this.#variable(node.value as string, scope);
      case "BinaryExpression":
        return this.#binary(node, scope);
      case "MemberExpression":
        return this.#member(node, scope);
      case "FilterExpression":
        return this.#filter(node, scope);
      case "FilterStatement": {
        const operand = { type: "Program", body: node.body };
        return this.#filter({ type: "FilterExpression", operand, filter: node.filter }, scope);
      }
      case "ObjectLiteral":
        this.#budget.charge(stepsPerMapping);
        return super.evaluate(node, scope);
      case "Macro":
      case "CallStatement":
        this.#budget.charge(this.#plan.sizes.get(node) ?? 1);
        return super.evaluate(node, scope);
      default:
        return super.evaluate(node, scope);
    }
  }

  /** Prices a value by what its parent node will do with it. */
  #account(value: TemplateValue, node: TemplateNode): void {
    const content: unknown = value.value;
    const role = this.#plan.roles.get(node);
    if (typeof content === "string") {
      if (content.length > this.#budget.limits.characters)
        throw templateOverBudget(`it builds a string of ${content.length} characters`);
      // The text of a block was priced piece by piece as it was put out.
      if (role !== "passed" && !statements.has(node.type) && node.type !== "Program")
        this.#budget.charge(0, content.length);
    } else if (role === "output") this.#budget.weigh(value);
    else if (role === "spread") this.#budget.charge(sizeOf(value));
    else if (role === "iterated") this.#budget.charge(sizeOf(value) * stepsPerIteration);
  }

  /** The library's own lookup throws and catches for every unknown name, which is slow. */
  #variable(name: string, scope: TemplateScope): TemplateValue {
    let levels = 0;
    for (let at: TemplateScope | undefined = scope; at !== undefined; at = at.parent) {
      const value = at.variables.get(name);
      // Each scope carries a `namespace` function of its own.
      if (value !== undefined && name === "namespace")
        return this.#price(value, (args) => {
          this.#budget.charge(stepsPerMapping);
          this.#budget.chargeNamespace(args[0]);
        });
      if (value !== undefined) return value;
      if ((++levels & 7) === 0) this.#budget.charge(1);
    }
    return super.evaluate(undefined, scope);
  }

  #binary(node: TemplateNode, scope: TemplateScope): TemplateValue {
    const operator = (node.operator as { value: string }).value;
    if (operator === "and" || operator === "or") return super.evaluate(node, scope);
    const left = this.evaluate(node.left as TemplateNode, scope);
    const right = this.evaluate(node.right as TemplateNode, scope);
    const [a, b]: unknown[] = [left.value, right.value];
    if (Array.isArray(a) && Array.isArray(b)) this.#budget.charge((a.length + b.length) / 2);
    else if (isConcatenation(node) || operator === "==" || operator === "!=") {
      // The loose equality of the library prints a list to compare it with a string.
      for (const side of [left, right]) if (Array.isArray(side.value)) this.#budget.weigh(side);
    }
    if (Array.isArray(b)) {
      let characters = 0;
      if (typeof a === "string")
        for (const item of b as TemplateValue[]) {
          const text: unknown = item.value;
          if (typeof text === "string" && text.length === a.length) characters += a.length;
        }
      this.#budget.charge(b.length, characters);
    } else if (typeof a === "string" && typeof b === "string" && operator.endsWith("in")) {
      this.#budget.chargeSearch(b, a);
    }
    return super.evaluate(
      { type: node.type, operator: node.operator, left: evaluated(left), right: evaluated(right) },
      scope,
    );
  }

  #member(node: TemplateNode, scope: TemplateScope): TemplateValue {
    const object = this.evaluate(node.object as TemplateNode, scope);
    const content: unknown = object.value;
    let property = node.property as TemplateNode;
    let name: unknown = property.value;
    if (property.type === "SliceExpression") {
      // A string is taken apart into one string per character.
      if (typeof content === "string") this.#budget.charge(0, content.length * 8);
      else this.#budget.charge(sizeOf(object));
    } else if (node.computed) {
      const key = this.evaluate(property, scope);
      name = key.value;
      property = evaluated(key);
    }
    const isOwn = content instanceof Map ? content.has(name as string) : typeof name === "number";
    if (!isOwn) this.#budget.charge(stepsPerMethodTable);
    let value = super.evaluate(
      { type: node.type, object: evaluated(object), property, computed: node.computed },
      scope,
    );
    // In Jinja `properties.items()` is the method even where a property is named "items".
    const isShadowed = isOwn && !node.computed && this.#plan.roles.get(node) === "called";
    if (isShadowed && value.type !== "FunctionValue") value = object.builtins.get(name as string) ?? value;
    else if (isOwn) return value;
    if (value.type !== "FunctionValue") return value;
    return this.#price(value, (args) => {
      const last = args.at(-1);
      const keywords =
        last?.type === "KeywordArgumentsValue" ? (last.value as Map<string, TemplateValue>) : new Map();
      this.#budget.chargeOperation(
        String(name),
        object,
        last && keywords.size > 0 ? args.slice(0, -1) : args,
        keywords,
      );
    });
  }

  /** Makes a function of the library pay on every call, however the template came to hold it. */
  #price(value: TemplateValue, charge: (args: TemplateValue[]) => void): TemplateValue {
    if (this.#priced.has(value)) return value;
    this.#priced.add(value);
    const holder = value as { value: unknown };
    const call = holder.value as TemplateFunction;
    holder.value = (args: TemplateValue[], scope: TemplateScope): TemplateValue => {
      charge(args);
      return call(args, scope);
    };
    return value;
  }

  #filter(node: TemplateNode, scope: TemplateScope): TemplateValue {
    const operand = evaluated(this.evaluate(node.operand as TemplateNode, scope));
    let filter = node.filter as TemplateNode;
    const positional: TemplateValue[] = [];
    const keywords = new Map<string, TemplateValue>();
    let name = filter.value;
    if (filter.type === "CallExpression") {
      name = (filter.callee as TemplateNode).value;
      const args = (filter.args as TemplateNode[]).map((arg) => {
        const inner = (
          arg.type === "KeywordArgumentExpression" ? arg.value : (arg.argument ?? arg)
        ) as TemplateNode;
        const value = this.evaluate(inner, scope);
        if (arg.type === "KeywordArgumentExpression") {
          keywords.set((arg.key as { value: string }).value, value);
          return { type: arg.type, key: arg.key, value: evaluated(value) };
        }
        if (arg.type === "KeywordSpreadExpression" && (value.value as unknown) instanceof Map)
          for (const [key, item] of value.value as Map<string, TemplateValue>) keywords.set(key, item);
        if (arg.type.endsWith("SpreadExpression")) {
          if (Array.isArray(value.value))
            for (const item of value.value as TemplateValue[]) positional.push(item);
          return { type: arg.type, argument: evaluated(value) };
        }
        positional.push(value);
        // Some filters insist on seeing a literal.
        return arg.type.endsWith("Literal") ? arg : evaluated(value);
      });
      filter = { type: filter.type, callee: filter.callee, args };
    }
    this.#budget.chargeOperation(String(name), operand.value as TemplateValue, positional, keywords);
    return super.evaluate({ type: node.type, operand, filter }, scope);
  }
}
