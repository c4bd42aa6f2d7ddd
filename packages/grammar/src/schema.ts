import { LowbitError } from "@lowbit/core";
import type { Limit } from "./numbers.ts";
import { quote, refuse, tooLarge } from "./refuse.ts";

/** A schema and where it stands. Interned by place, so that rules can be shared. */
export interface Schema {
  readonly id: number;
  readonly where: string;
  readonly value: boolean | Readonly<Record<string, unknown>>;
}

/** Schemas that must all hold; none lets anything pass. */
export type Schemas = readonly Schema[];

export const typeNames = ["null", "boolean", "number", "integer", "string", "array", "object"] as const;
export type TypeName = (typeof typeNames)[number];

/** What one schema says about the properties of an object. */
export interface ObjectPart {
  readonly properties: ReadonlyMap<string, Schema>;
  readonly patterns: ReadonlyMap<string, Schema>;
  readonly additional: Schema | undefined;
}

/** What one schema says about the items of an array. */
export interface ArrayPart {
  readonly prefix: Schemas;
  readonly items: Schema | undefined;
}

/** One alternative of a schema, all references, alternatives and conjunctions of its own level resolved. */
export interface Flat {
  /** Undefined where nothing is said. */
  readonly types: ReadonlySet<TypeName> | undefined;
  /** Lists of JSON texts: a value is in all of them. */
  readonly values: readonly (readonly string[])[];
  readonly low: Limit | undefined;
  readonly high: Limit | undefined;
  readonly minLength: number;
  readonly maxLength: number;
  readonly patterns: readonly string[];
  readonly formats: readonly string[];
  readonly objects: readonly ObjectPart[];
  readonly required: readonly string[];
  readonly names: Schemas;
  readonly closed: boolean;
  readonly arrays: readonly ArrayPart[];
  readonly minItems: number;
  readonly maxItems: number;
}

export interface SchemaReader {
  readonly root: Schema;
  /** Alternatives of which one must hold; none if nothing can. */
  flatten(schemas: Schemas): Flat[];
}

const maxText = 1 << 20;
const maxSchemas = 20_000;
const maxAlternatives = 500;
const maxSteps = 100_000;

const annotations: ReadonlySet<string> = new Set(
  "$schema $id $comment $defs definitions title description default examples deprecated readOnly writeOnly contentEncoding contentMediaType contentSchema".split(
    " ",
  ),
);
const keywords: ReadonlySet<string> = new Set(
  "type enum const properties required additionalProperties patternProperties propertyNames unevaluatedProperties items prefixItems minItems maxItems uniqueItems minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf anyOf oneOf allOf $ref nullable".split(
    " ",
  ),
);

const anyFlat: Flat = {
  types: undefined,
  values: [],
  low: undefined,
  high: undefined,
  minLength: 0,
  maxLength: Number.POSITIVE_INFINITY,
  patterns: [],
  formats: [],
  objects: [],
  required: [],
  names: [],
  closed: false,
  arrays: [],
  minItems: 0,
  maxItems: Number.POSITIVE_INFINITY,
};

/** A plain copy as JSON text: no cycles, no getters, no prototypes. */
export function schemaText(schema: unknown): string {
  let text: string | undefined;
  try {
    text = JSON.stringify(schema);
  } catch (cause) {
    throw new LowbitError("bad-argument", "The schema is not plain JSON.", {
      reason: "schema",
      plugin: "grammar",
      hint: "Give a JSON Schema, or an object of a schema library that implements Standard JSON Schema.",
      cause,
    });
  }
  if (text === undefined) throw refuse("#", `it is ${typeof schema}, not a schema`);
  if (text.length > maxText)
    throw tooLarge("#", `it is ${text.length} characters long; the limit is ${maxText}`);
  return text;
}

export function createSchemaReader(text: string): SchemaReader {
  const document: unknown = JSON.parse(text);
  const places = new Map<string, Schema>();
  let steps = 0;

  const schemaAt = (value: unknown, where: string): Schema => {
    const known = places.get(where);
    if (known) return known;
    if (places.size >= maxSchemas) throw tooLarge(where, `there are more than ${maxSchemas} schemas`);
    if (typeof value !== "boolean" && !isObject(value)) throw refuse(where, "there is no schema");
    const schema: Schema = { id: places.size, where, value };
    places.set(where, schema);
    return schema;
  };
  const root = schemaAt(document, "#");

  const resolve = (reference: unknown, where: string): Schema => {
    if (typeof reference !== "string" || !/^#(\/|$)/.test(reference))
      throw refuse(
        where,
        `$ref is ${quote(String(reference))}; it must point into this schema, as "#/$defs/name"`,
      );
    let value = document;
    const steps = reference.split("/").slice(1);
    for (const step of steps) {
      const key = pointerKey(step);
      const inside =
        Array.isArray(value) || isObject(value) ? Object.getOwnPropertyDescriptor(value, key) : undefined;
      if (inside === undefined) throw refuse(where, `$ref points to ${quote(reference)}, where nothing is`);
      value = inside.value;
    }
    return schemaAt(value, ["#", ...steps.map((step) => pointerStep(pointerKey(step)))].join("/"));
  };

  const flatten = (schema: Schema, within: ReadonlySet<number>): Flat[] => {
    const { value, where } = schema;
    if (typeof value === "boolean") return value ? [anyFlat] : [];
    if (within.has(schema.id)) throw refuse(where, "the schema refers to itself with nothing in between");
    if (within.size > 200) throw tooLarge(where, "references and alternatives nest too deep");
    const inside = new Set([...within, schema.id]);
    const child = (key: string, inner: unknown, index?: number | string): Schema =>
      schemaAt(inner, `${where}/${key}${index === undefined ? "" : `/${pointerStep(String(index))}`}`);

    let alternatives =
      value.nullable === true ? withNull(readOwn(value, where, child)) : [readOwn(value, where, child)];
    const narrow = (others: Flat[]): void => {
      const merged: Flat[] = [];
      for (const a of alternatives) {
        for (const b of others) {
          if (++steps > maxSteps) throw tooLarge(where, "its alternatives multiply beyond measure");
          const both = merge(a, b);
          if (both) merged.push(both);
        }
      }
      if (merged.length > maxAlternatives)
        throw tooLarge(
          where,
          `there are ${merged.length} alternatives at one place; the limit is ${maxAlternatives}`,
        );
      alternatives = merged;
    };
    if (value.$ref !== undefined) narrow(flatten(resolve(value.$ref, where), inside));
    for (const key of ["allOf", "anyOf", "oneOf"]) {
      const list = value[key];
      if (list === undefined) continue;
      if (!Array.isArray(list) || list.length === 0) throw refuse(where, `${key} is not a list of schemas`);
      const flats = list.map((inner, index) => flatten(child(key, inner, index), inside));
      if (key === "allOf") for (const flat of flats) narrow(flat);
      else narrow(flats.flat());
    }
    return alternatives;
  };

  return {
    root,
    flatten(schemas) {
      let alternatives: Flat[] = [anyFlat];
      for (const schema of schemas) {
        const others = flatten(schema, new Set());
        alternatives = alternatives.flatMap((a) => others.flatMap((b) => merge(a, b) ?? []));
        if (alternatives.length > maxAlternatives)
          throw tooLarge(schema.where, `there are ${alternatives.length} alternatives at one place`);
      }
      return alternatives;
    },
  };
}

/** OpenAPI 3.0 says so that null is allowed too. */
function withNull(flat: Flat): Flat[] {
  return [flat, { ...anyFlat, types: new Set(["null"]), values: flat.values }];
}

type Child = (key: string, inner: unknown, index?: number | string) => Schema;

/** What the keywords of one schema say by themselves. */
function readOwn(value: Readonly<Record<string, unknown>>, where: string, child: Child): Flat {
  for (const key of Object.keys(value)) {
    if (!keywords.has(key) && !annotations.has(key))
      throw refuse(
        where,
        `the keyword ${quote(key)} is not supported`,
        "Leave it out, and check the value afterwards.",
      );
  }
  const wrong = (key: string, wanted: string): Error => refuse(where, `${key} is not ${wanted}`);
  const count = (key: string, otherwise: number): number => {
    const found = value[key];
    if (found === undefined) return otherwise;
    if (!Number.isSafeInteger(found) || (found as number) < 0) throw wrong(key, "a whole number from 0");
    return found as number;
  };
  const limit = (key: string, open: boolean): Limit | undefined => {
    const found = value[key];
    if (found === undefined) return undefined;
    if (typeof found !== "number") throw wrong(key, "a number");
    return { value: found, open };
  };
  const texts = (key: string): string[] => {
    const found = value[key];
    if (found === undefined) return [];
    if (typeof found !== "string") throw wrong(key, "a string");
    return [found];
  };
  const schemas = (key: string): Map<string, Schema> => {
    const found = value[key];
    if (found === undefined) return new Map();
    if (!isObject(found)) throw wrong(key, "an object of schemas");
    return new Map(Object.entries(found).map(([name, inner]) => [name, child(key, inner, name)] as const));
  };
  const one = (key: string): Schema | undefined =>
    value[key] === undefined ? undefined : child(key, value[key]);

  if (value.uniqueItems !== undefined && value.uniqueItems !== false)
    throw refuse(where, "uniqueItems is not supported", "Leave it out, and check the value afterwards.");
  if (value.unevaluatedProperties !== undefined && value.unevaluatedProperties !== false)
    throw refuse(where, "unevaluatedProperties is only supported as false");
  if (Array.isArray(value.items)) throw refuse(where, "items is a list", "Write it as prefixItems.");
  const required = value.required ?? [];
  if (!Array.isArray(required) || required.some((name) => typeof name !== "string"))
    throw wrong("required", "a list of names");
  const prefix = value.prefixItems ?? [];
  if (!Array.isArray(prefix)) throw wrong("prefixItems", "a list of schemas");
  const multiple = value.multipleOf;
  if (multiple !== undefined && multiple !== 1)
    throw refuse(where, "multipleOf is only supported as 1", "Leave it out, and check the value afterwards.");

  const types =
    multiple === 1 ? narrowTypes(readTypes(value.type, where), wholeNumbers) : readTypes(value.type, where);
  const values: string[][] = [];
  if (value.const !== undefined) values.push([JSON.stringify(value.const)]);
  if (value.enum !== undefined) {
    if (!Array.isArray(value.enum)) throw wrong("enum", "a list of values");
    values.push(value.enum.map((item) => JSON.stringify(item)));
  }
  const object: ObjectPart = {
    properties: schemas("properties"),
    patterns: schemas("patternProperties"),
    additional: one("additionalProperties"),
  };
  const array: ArrayPart = {
    prefix: prefix.map((inner, index) => child("prefixItems", inner, index)),
    items: one("items"),
  };
  return {
    types,
    values,
    low: tighter(limit("minimum", false), limit("exclusiveMinimum", true), 1),
    high: tighter(limit("maximum", false), limit("exclusiveMaximum", true), -1),
    minLength: count("minLength", 0),
    maxLength: count("maxLength", Number.POSITIVE_INFINITY),
    patterns: texts("pattern"),
    formats: texts("format"),
    objects: object.properties.size + object.patterns.size > 0 || object.additional ? [object] : [],
    required: required as string[],
    names: value.propertyNames === undefined ? [] : [child("propertyNames", value.propertyNames)],
    closed: value.unevaluatedProperties === false,
    arrays: array.prefix.length > 0 || array.items ? [array] : [],
    minItems: count("minItems", 0),
    maxItems: count("maxItems", Number.POSITIVE_INFINITY),
  };
}

const wholeNumbers: ReadonlySet<TypeName> = new Set(typeNames.filter((name) => name !== "number"));

function readTypes(type: unknown, where: string): ReadonlySet<TypeName> | undefined {
  if (type === undefined) return undefined;
  const list: readonly unknown[] = Array.isArray(type) ? type : [type];
  for (const name of list) {
    if (!typeNames.includes(name as TypeName)) throw refuse(where, `there is no type ${quote(String(name))}`);
  }
  return new Set(list as TypeName[]);
}

function narrowTypes(
  a: ReadonlySet<TypeName> | undefined,
  b: ReadonlySet<TypeName> | undefined,
): ReadonlySet<TypeName> | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  const has = (set: ReadonlySet<TypeName>, name: TypeName): boolean =>
    set.has(name) || (name === "integer" && set.has("number"));
  // "number" holds "integer": where both are in, the wider one is enough.
  const all = typeNames.filter((name) => has(a, name) && has(b, name));
  return new Set(all.includes("number") ? all.filter((name) => name !== "integer") : all);
}

/** `direction` 1: the larger of two lower limits; −1: the smaller of two upper ones. */
function tighter(a: Limit | undefined, b: Limit | undefined, direction: 1 | -1): Limit | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  if (a.value === b.value) return { value: a.value, open: a.open || b.open };
  return (a.value - b.value) * direction > 0 ? a : b;
}

function merge(a: Flat, b: Flat): Flat | undefined {
  if (a === anyFlat) return b;
  if (b === anyFlat) return a;
  const types = narrowTypes(a.types, b.types);
  if (types?.size === 0) return undefined;
  return {
    types,
    values: [...a.values, ...b.values],
    low: tighter(a.low, b.low, 1),
    high: tighter(a.high, b.high, -1),
    minLength: Math.max(a.minLength, b.minLength),
    maxLength: Math.min(a.maxLength, b.maxLength),
    patterns: [...new Set([...a.patterns, ...b.patterns])],
    formats: [...new Set([...a.formats, ...b.formats])],
    objects: [...a.objects, ...b.objects],
    required: [...new Set([...a.required, ...b.required])],
    names: [...a.names, ...b.names],
    closed: a.closed || b.closed,
    arrays: [...a.arrays, ...b.arrays],
    minItems: Math.max(a.minItems, b.minItems),
    maxItems: Math.min(a.maxItems, b.maxItems),
  };
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A name as a step of a JSON pointer, and back. */
function pointerStep(name: string): string {
  return name.replaceAll("~", "~0").replaceAll("/", "~1");
}

function pointerKey(step: string): string {
  let text = step;
  try {
    text = decodeURIComponent(step);
  } catch {
    // Not encoded as part of a URI: taken as it stands.
  }
  return text.replaceAll("~1", "/").replaceAll("~0", "~");
}
