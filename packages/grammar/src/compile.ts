import { allCharacters, anyJsonCharacter, jsonWriting } from "./characters.ts";
import { explore } from "./explore.ts";
import type { Expression, Expressions } from "./expression.ts";
import { formats } from "./formats.ts";
import { createMachine, measure, type Node, type Nodes, type Rule } from "./machine.ts";
import { decimals, integers } from "./numbers.ts";
import { compilePattern } from "./pattern.ts";
import { quote, refuse, tooLarge } from "./refuse.ts";
import {
  createSchemaReader,
  type Flat,
  type Schema,
  type SchemaReader,
  type Schemas,
  type TypeName,
  typeNames,
} from "./schema.ts";

export interface SchemaOptions {
  /** Objects that name properties have no others unless `additionalProperties` says so. */
  readonly closed: boolean;
}

/** Items and properties that are written out one by one in the automaton. */
const maxWrittenOut = 5000;
/** Kinds of names that `patternProperties` may set apart: each adds a combination with every other. */
const maxNamePatterns = 5;

/**
 * A JSON Schema as a rule. Texts come compact, with at most one space after `,` and `:`; properties in the order of the schema; names,
 * patterns and values of `enum` each in one writing.
 */
export function compileSchema(
  text: string,
  nodes: Nodes,
  expressions: Expressions,
  options: SchemaOptions,
): Rule {
  const reader = createSchemaReader(text);
  const compiler = new Compiler(reader, nodes, expressions, options);
  return compiler.compile(reader.root);
}

class Compiler {
  readonly #reader: SchemaReader;
  readonly #nodes: Nodes;
  readonly #e: Expressions;
  readonly #options: SchemaOptions;
  readonly #rules = new Map<string, Rule>();
  readonly #open: (() => void)[] = [];
  readonly #character: Expression;
  readonly #canonical: Expression;
  readonly #space: Expression;

  constructor(reader: SchemaReader, nodes: Nodes, expressions: Expressions, options: SchemaOptions) {
    this.#reader = reader;
    this.#nodes = nodes;
    this.#e = expressions;
    this.#options = options;
    this.#character = anyJsonCharacter(expressions);
    this.#canonical = jsonWriting(expressions, allCharacters);
    this.#space = expressions.optional(expressions.bytes(" "));
  }

  compile(root: Schema): Rule {
    const rule = this.#rule([root], root.where);
    // Rules wait in a list rather than on the stack: schemas may nest as they like.
    for (let job = this.#open.pop(); job; job = this.#open.pop()) job();
    return rule;
  }

  #rule(schemas: Schemas, where: string): Rule {
    const unique = [...new Set(schemas)].sort((a, b) => a.id - b.id);
    const key = unique.map(({ id }) => id).join();
    let rule = this.#rules.get(key);
    if (rule === undefined) {
      const made: Rule = { body: undefined };
      rule = made;
      this.#rules.set(key, rule);
      this.#open.push(() => {
        const alternatives = this.#reader
          .flatten(unique)
          .flatMap((flat) => this.#values(flat, unique[0]?.where ?? where));
        made.body = this.#nodes.branch(alternatives);
      });
    }
    return rule;
  }

  #values(flat: Flat, where: string): Node[] {
    if (flat.values.length > 0) return this.#listed(flat, where);
    const types = flat.types ?? impliedTypes(flat);
    return typeNames.filter((name) => types.has(name)).map((name) => this.#type(name, flat, where));
  }

  #text(expression: Expression, next: Node, where: string): Node {
    if (!expression.plain && expression.alive === undefined && !explore(this.#e, expression))
      throw tooLarge(where, "the combination of its conditions has too many states");
    return this.#nodes.text(expression, next);
  }

  #type(name: TypeName, flat: Flat, where: string): Node {
    const { end } = this.#nodes;
    const { low, high } = flat;
    switch (name) {
      case "null":
        return this.#nodes.text(this.#e.bytes("null"), end);
      case "boolean":
        return this.#nodes.text(this.#e.anyOf(["true", "false"]), end);
      case "integer":
        return this.#nodes.text(integers(this.#e, low, high), end);
      case "number":
        return this.#text(decimals(this.#e, low, high), end, where);
      case "string":
        return this.#text(this.#quoted(this.#content(flat, where)), end, where);
      case "array":
        return this.#array(flat, where);
      default:
        return this.#object(flat, where);
    }
  }

  #quoted(content: Expression): Expression {
    const quoteMark = this.#e.bytes('"');
    return this.#e.sequence(quoteMark, content, quoteMark);
  }

  /** A string's inside. Whatever is compared with something else has one writing only. */
  #content({ patterns, formats: names, minLength, maxLength }: Flat, where: string): Expression {
    if (minLength > maxLength) return this.#e.nothing;
    const conditions = patterns.map((pattern) => this.#pattern(pattern, where));
    for (const name of names) {
      const pattern = Object.hasOwn(formats, name) ? formats[name] : undefined;
      if (pattern === undefined)
        throw refuse(
          where,
          `the format ${quote(name)} is not supported`,
          `There are ${Object.keys(formats).join(", ")}; or write a pattern.`,
        );
      conditions.push(this.#pattern(pattern, where));
    }
    if (conditions.length === 0) return this.#e.repeat(this.#character, minLength, maxLength);
    if (minLength > 0 || maxLength < Number.POSITIVE_INFINITY)
      conditions.push(this.#e.repeat(this.#canonical, minLength, maxLength));
    return this.#e.both(conditions);
  }

  #pattern(pattern: string, where: string): Expression {
    const compiled = compilePattern(this.#e, pattern, jsonWriting, where);
    if (compiled.alive === undefined && !explore(this.#e, compiled))
      throw tooLarge(where, `the pattern ${quote(pattern)} has too many states`);
    return compiled.alive === false ? this.#e.nothing : compiled;
  }

  /** enum and const: those values that meet the other conditions. */
  #listed(flat: Flat, where: string): Node[] {
    const [first = [], ...others] = flat.values;
    const listed = first.filter((text) => others.every((list) => list.includes(text)));
    const bare = { ...flat, values: [], types: undefined };
    const typed = listed.filter((text) => flat.types === undefined || hasType(text, flat.types));
    const kept = impliedTypes(bare).size > 1 ? typed : this.#matching(typed, bare, where);
    return kept.length === 0 ? [] : [this.#nodes.text(this.#e.anyOf(kept), this.#nodes.end)];
  }

  #matching(texts: readonly string[], flat: Flat, where: string): string[] {
    const rule: Rule = { body: this.#nodes.branch(this.#values(flat, where)) };
    for (let job = this.#open.pop(); job; job = this.#open.pop()) job();
    const root = this.#nodes.call(rule, this.#nodes.end);
    measure(root, this.#e);
    const machine = createMachine(root, this.#e);
    return texts.filter((text) => {
      let state: typeof machine.start | undefined = machine.start;
      for (const byte of new TextEncoder().encode(text)) state = state && machine.step(state, byte);
      return state?.complete ?? false;
    });
  }

  #array(flat: Flat, where: string): Node {
    const { nodes, e } = { nodes: this.#nodes, e: this.#e };
    const { arrays, minItems } = flat;
    const prefix = Math.max(0, ...arrays.map((part) => part.prefix.length));
    const itemsFrom = (index: number): Schemas | undefined => {
      const schemas: Schema[] = [];
      for (const part of arrays) {
        const schema = part.prefix[index] ?? part.items;
        if (schema?.value === false) return undefined;
        if (schema) schemas.push(schema);
      }
      return schemas;
    };
    const closedAt = Array.from({ length: prefix + 1 }, (_, i) => i).find((i) => itemsFrom(i) === undefined);
    const maxItems = Math.min(flat.maxItems, closedAt ?? Number.POSITIVE_INFINITY);
    if (minItems > maxItems) return nodes.branch([]);
    const open = e.bytes("[");
    const comma = e.sequence(e.bytes(","), this.#space);
    // From here on every item is like the one before: one loop.
    const written = maxItems < Number.POSITIVE_INFINITY ? maxItems : Math.max(prefix, minItems, 1);
    if (written > maxWrittenOut)
      throw tooLarge(where, `it writes out ${written} items; the limit is ${maxWrittenOut}`);
    const close = nodes.text(e.bytes("]"), nodes.end);
    const item = (index: number, next: Node): Node =>
      nodes.text(index === 0 ? open : comma, nodes.call(this.#rule(itemsFrom(index) ?? [], where), next));
    let node: Node;
    if (maxItems < Number.POSITIVE_INFINITY) node = close;
    else {
      node = nodes.branch([close]);
      node.next.push(item(written, node));
    }
    for (let index = written - 1; index >= 0; index--) {
      const more = item(index, node);
      const may = index >= minItems;
      if (index === 0) return may ? nodes.branch([nodes.text(e.bytes("[]"), nodes.end), more]) : more;
      node = may ? nodes.branch([close, more]) : more;
    }
    return nodes.text(e.bytes("[]"), nodes.end);
  }

  #object(flat: Flat, where: string): Node {
    const { nodes, e } = { nodes: this.#nodes, e: this.#e };
    const { objects, required } = flat;
    const names = [...new Set([...objects.flatMap(({ properties }) => [...properties.keys()]), ...required])];
    if (names.length > maxWrittenOut)
      throw tooLarge(where, `it has ${names.length} properties; the limit is ${maxWrittenOut}`);
    const named = this.#nameTest(flat, where);
    const colon = e.sequence(e.bytes(":"), this.#space);
    const [open, comma] = [e.bytes("{"), e.sequence(e.bytes(","), this.#space)];

    /** Properties that no name is given for. */
    const others = this.#others(flat, names, where);
    const tail = (first: boolean, loop: Node): Node[] =>
      others.map(([name, schemas]) =>
        this.#text(
          e.sequence(first ? open : comma, this.#quoted(name), colon),
          nodes.call(this.#rule(schemas, where), loop),
          where,
        ),
      );
    const loop = nodes.branch([nodes.text(e.bytes("}"), nodes.end)]);
    loop.next.push(...tail(false, loop));
    // Two chains: before the first property that is written, and after it.
    let before = nodes.branch([nodes.text(e.bytes("{}"), nodes.end), ...tail(true, loop)]);
    let after: Node = loop;
    for (const name of names.toReversed()) {
      const schemas = this.#property(flat, name);
      const must = required.includes(name);
      if (schemas === undefined || !named(name)) {
        if (must) return nodes.branch([]);
        continue;
      }
      const value = nodes.call(this.#rule(schemas, where), after);
      const key = e.sequence(e.bytes(JSON.stringify(name)), colon);
      const firstHere = nodes.text(e.sequence(open, key), value);
      const here = nodes.text(e.sequence(comma, key), value);
      before = must ? firstHere : nodes.branch([firstHere, before]);
      after = must ? here : nodes.branch([here, after]);
    }
    return before;
  }

  /** All that a property of this name must be; undefined where it cannot be there. */
  #property(flat: Flat, name: string): Schemas | undefined {
    const schemas: Schema[] = [];
    for (const { properties, patterns, additional } of flat.objects) {
      const found = properties.has(name) ? [properties.get(name)!] : [];
      for (const [pattern, schema] of patterns)
        if (this.#finds(pattern, name, schema.where)) found.push(schema);
      if (found.length === 0 && additional) found.push(additional);
      schemas.push(...found);
    }
    return schemas.some(({ value }) => value === false) ? undefined : schemas;
  }

  #finds(pattern: string, name: string, where: string): boolean {
    const compiled = this.#pattern(pattern, where);
    return matches(this.#e, compiled, JSON.stringify(name).slice(1, -1));
  }

  #nameTest(flat: Flat, where: string): (name: string) => boolean {
    const allowed = this.#names(flat, where);
    return (name) => allowed === undefined || matches(this.#e, allowed, JSON.stringify(name).slice(1, -1));
  }

  /** What `propertyNames` lets names be, as the inside of a string. */
  #names({ names }: Flat, where: string): Expression | undefined {
    if (names.length === 0) return undefined;
    const alternatives = this.#reader.flatten(names).map((flat) => {
      if (flat.types && !flat.types.has("string")) return this.#e.nothing;
      const content = this.#content({ ...flat, minLength: flat.minLength }, where);
      const canonical = this.#e.both([content, this.#e.repeat(this.#canonical, 0, Number.POSITIVE_INFINITY)]);
      const [first, ...others] = flat.values;
      if (first === undefined) return canonical;
      const listed = first.filter(
        (text) => text.startsWith('"') && others.every((list) => list.includes(text)),
      );
      return this.#e.both([canonical, this.#e.anyOf(listed.map((text) => text.slice(1, -1)))]);
    });
    return this.#e.choice(alternatives);
  }

  /** Names that no property has, with what their values must be: one pair for each combination of patterns. */
  #others(flat: Flat, names: readonly string[], where: string): [Expression, Schemas][] {
    const { objects } = flat;
    const e = this.#e;
    const explicit = objects.some(({ additional }) => additional !== undefined);
    const patterns = [...new Set(objects.flatMap((part) => [...part.patterns.keys()]))];
    if (patterns.length > maxNamePatterns)
      throw tooLarge(where, `it has ${patterns.length} patternProperties; the limit is ${maxNamePatterns}`);
    const says = objects.some(({ properties }) => properties.size > 0) || patterns.length > 0;
    const closed = flat.closed || (this.#options.closed && says && !explicit);
    const any = e.repeat(this.#canonical, 0, Number.POSITIVE_INFINITY);
    const allowed = this.#names(flat, where) ?? any;
    const free =
      names.length === 0
        ? allowed
        : e.both([allowed, e.not(e.anyOf(names.map((name) => JSON.stringify(name).slice(1, -1))))]);
    const found: [Expression, Schemas][] = [];
    for (let chosen = 0; chosen < 1 << patterns.length; chosen++) {
      if (chosen === 0 && closed) continue;
      const inside = new Set(patterns.filter((_, i) => chosen & (1 << i)));
      const schemas = objects.flatMap((part) => {
        const own = [...part.patterns].filter(([pattern]) => inside.has(pattern)).map(([, schema]) => schema);
        return own.length === 0 && part.additional ? [part.additional] : own;
      });
      if (schemas.some(({ value }) => value === false)) continue;
      const conditions = patterns.map((pattern) => {
        const compiled = this.#pattern(pattern, where);
        return inside.has(pattern) ? compiled : e.not(compiled);
      });
      const name = e.both([free, ...conditions]);
      if (!name.plain && !explore(e, name)) throw tooLarge(where, "its property names have too many states");
      if (name !== e.nothing && name.alive !== false) found.push([name, schemas]);
    }
    return found;
  }
}

function matches(expressions: Expressions, expression: Expression, text: string): boolean {
  let at = expression;
  for (const byte of new TextEncoder().encode(text)) at = expressions.next(at)[byte]!;
  return at.nullable;
}

/** Of a schema without type: the one whose keywords it has, else all. */
function impliedTypes(flat: Flat): ReadonlySet<TypeName> {
  const { patterns, formats: names, minLength, maxLength, minItems, maxItems } = flat;
  const infinite = Number.POSITIVE_INFINITY;
  if (flat.objects.length + flat.required.length + flat.names.length > 0 || flat.closed)
    return new Set(["object"]);
  if (flat.arrays.length > 0 || minItems > 0 || maxItems < infinite) return new Set(["array"]);
  if (patterns.length + names.length > 0 || minLength > 0 || maxLength < infinite) return new Set(["string"]);
  if (flat.low || flat.high) return new Set(["number"]);
  return new Set(typeNames.filter((name) => name !== "integer"));
}

function hasType(text: string, types: ReadonlySet<TypeName>): boolean {
  const value: unknown = JSON.parse(text);
  if (typeof value === "number")
    return types.has("number") || (types.has("integer") && Number.isInteger(value));
  if (typeof value !== "object") return types.has(typeof value as TypeName);
  return types.has(value === null ? "null" : Array.isArray(value) ? "array" : "object");
}
