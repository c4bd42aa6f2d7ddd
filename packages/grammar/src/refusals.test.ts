import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { refusal } from "../test/texts.ts";

describe("what cannot be kept to is refused by name", () => {
  it.each([
    [{ type: "array", items: { uniqueItems: true } }, /#\/items, uniqueItems/],
    [{ properties: { a: { if: true } } }, /#\/properties\/a, the keyword "if"/],
    [{ not: { type: "string" } }, /keyword "not"/],
    [{ type: "object", minProperties: 1 }, /minProperties/],
    [{ type: "array", contains: true }, /contains/],
    [{ dependentRequired: {} }, /dependentRequired/],
    [{ unevaluatedItems: false }, /unevaluatedItems/],
    [{ $dynamicRef: "#a" }, /\$dynamicRef/],
    [{ $anchor: "a" }, /\$anchor/],
    [{ type: "number", multipleOf: 0.1 }, /multipleOf is only supported as 1/],
    [{ type: "array", items: [true] }, /items is a list.*prefixItems/],
    [{ exclusiveMinimum: true, minimum: 1 }, /exclusiveMinimum is not a number/],
    [{ type: "string", format: "iri" }, /format "iri".*date-time/],
    [{ type: "string", pattern: "(a)\\1" }, /pattern "\(a\)/],
    [{ type: "text" }, /no type "text"/],
    [{ $ref: "https://example.org/schema" }, /\$ref is "https:.*must point into this schema/],
    [{ $ref: "#/$defs/gone" }, /where nothing is/],
    [{ $ref: "#/title", title: "x" }, /there is no schema/],
    [{ anyOf: [] }, /anyOf is not a list/],
    [{ properties: [] }, /properties is not an object/],
    [{ required: "a" }, /required is not a list/],
    [{ minLength: -1 }, /minLength is not a whole number/],
    [{ minimum: "1" }, /minimum is not a number/],
    [{ enum: 1 }, /enum is not a list/],
    [{ unevaluatedProperties: {} }, /unevaluatedProperties/],
    [{ colour: "red" }, /keyword "colour"/],
  ])("%j", (schema, message) => {
    expect(refusal(schema)).toMatch(message);
  });

  it("annotations say nothing", () => {
    const notes = {
      $schema: "x",
      $id: "y",
      title: "t",
      description: "d",
      default: 1,
      examples: [1],
      deprecated: true,
      readOnly: true,
      $comment: "c",
    };
    expect(refusal({ ...notes, type: "integer" })).toBe("");
  });
});

describe("contradictions", () => {
  it.each([
    [false],
    [{ type: "integer", minimum: 3, maximum: 2 }],
    [{ type: "number", exclusiveMinimum: 1, maximum: 1 }],
    [{ type: "string", minLength: 3, maxLength: 2 }],
    [{ type: "string", pattern: "^ab$", minLength: 3 }],
    [{ allOf: [{ type: "string" }, { type: "integer" }] }],
    [{ enum: [] }],
    [{ enum: [1], type: "string" }],
    [{ type: "object", required: ["a"], additionalProperties: false }],
    [{ type: "object", properties: { a: false }, required: ["a"] }],
    [{ type: "array", items: false, minItems: 1 }],
    [{ type: "object", properties: { a: { $ref: "#" } }, required: ["a"] }],
    [{ type: "array", items: { $ref: "#" }, minItems: 1 }],
  ])("%j is refused", (schema) => {
    expect(refusal(schema)).toMatch(/no finite text meets all its conditions/);
  });

  it("in an alternative leave the others", () => {
    expect(
      refusal({
        anyOf: [
          false,
          { type: "object", properties: { a: { $ref: "#" } }, required: ["a"] },
          { type: "null" },
        ],
      }),
    ).toBe("");
  });
});

describe("hostile schemas end in an error within a second", () => {
  const nested = (depth: number, wrap: (inner: object) => object): object => {
    let schema: object = { type: "null" };
    for (let left = depth; left > 0; left--) schema = wrap(schema);
    return schema;
  };
  const cyclic: Record<string, unknown> = { type: "object" };
  cyclic.properties = { self: cyclic };
  const names = Array.from({ length: 3000 }, (_, i) => `n${i}`);
  const cases: [string, () => unknown, RegExp][] = [
    ["a cycle of objects", () => cyclic, /not plain JSON/],
    ["a reference to itself", () => ({ $ref: "#" }), /refers to itself/],
    [
      "references around",
      () => ({
        $ref: "#/$defs/a",
        $defs: { a: { anyOf: [{ $ref: "#/$defs/b" }] }, b: { allOf: [{ $ref: "#/$defs/a" }] } },
      }),
      /refers to itself/,
    ],
    ["deep alternatives", () => nested(1000, (inner) => ({ anyOf: [inner] })), /nest too deep/],
    [
      "alternatives that multiply",
      () => ({
        allOf: Array.from({ length: 12 }, (_, i) => ({
          anyOf: names.slice(0, 6).map((name) => ({ properties: { [`${name}${i}`]: true } })),
        })),
      }),
      /alternatives/,
    ],
    [
      "references that double",
      () => ({
        $ref: "#/$defs/d0",
        $defs: Object.fromEntries(
          Array.from({ length: 40 }, (_, i) => [
            `d${i}`,
            i === 39 ? {} : { allOf: [{ $ref: `#/$defs/d${i + 1}` }, { $ref: `#/$defs/d${i + 1}` }] },
          ]),
        ),
      }),
      /measure|beyond/,
    ],
    [
      "deep objects",
      () => nested(300, (inner) => ({ type: "object", properties: { a: inner }, required: ["a"] })),
      /nests too deep/,
    ],
    ["much text", () => ({ enum: ["x".repeat(2_000_000)] }), /characters long/],
    [
      "many properties",
      () => ({
        type: "object",
        properties: Object.fromEntries(Array.from({ length: 6000 }, (_, i) => [`p${i}`, {}])),
      }),
      /6000 properties/,
    ],
    ["many items", () => ({ type: "array", minItems: 1_000_000 }), /1000000 items/],
    [
      "many patterns of names",
      () => ({
        type: "object",
        patternProperties: Object.fromEntries(names.slice(0, 30).map((name) => [name, {}])),
      }),
      /30 patternProperties/,
    ],
    ["a pattern of many states", () => ({ type: "string", pattern: "^.{0,90000}$" }), /too many states/],
    ["a pattern that remembers", () => ({ type: "string", pattern: "^(.*a.{30})+$" }), /too many states/],
    [
      "patterns that interlock",
      () => ({ type: "string", allOf: [97, 89, 83, 79].map((n) => ({ pattern: `^(?:.{${n}})*$` })) }),
      /too many states/,
    ],
    [
      "JSON that is too deep to write",
      () => nested(20_000, (inner) => ({ items: inner })),
      /not plain JSON|too deep|schemas/,
    ],
  ];
  it.each(cases)("%s", (_, make, message) => {
    const schema = make();
    const started = performance.now();
    expect(refusal(schema)).toMatch(message);
    // Generous: the machine may be busy. Without limits these would take hours.
    expect(performance.now() - started).toBeLessThan(10_000);
  });

  it("large but honest ones compile", () => {
    expect(
      refusal({
        type: "object",
        properties: Object.fromEntries(names.slice(0, 1000).map((name) => [name, { type: "string" }])),
      }),
    ).toBe("");
    expect(refusal({ enum: names })).toBe("");
    expect(
      refusal(nested(50, (inner) => ({ type: "object", properties: { a: inner }, required: ["a"] }))),
    ).toBe("");
    expect(refusal({ type: "string", maxLength: 1_000_000 })).toBe("");
  });

  it("anything at all compiles or is refused with a LowbitError", () => {
    const key = fc.constantFrom(
      "type",
      "enum",
      "const",
      "properties",
      "items",
      "anyOf",
      "allOf",
      "$ref",
      "minimum",
      "maxLength",
      "pattern",
      "required",
      "prefixItems",
      "additionalProperties",
      "format",
      "minItems",
      "patternProperties",
      "x",
    );
    const leaf = fc.oneof(
      fc.constantFrom("object", "string", "integer", "#", "^a", "date", ""),
      fc.integer({ min: -3, max: 9 }),
      fc.boolean(),
      fc.constant(null),
    );
    const { value } = fc.letrec<{ value: unknown }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        leaf,
        fc.array(tie("value"), { maxLength: 3 }),
        fc.dictionary(key, tie("value"), { maxKeys: 4 }),
      ),
    }));
    fc.assert(
      fc.property(value, (schema) => {
        refusal(schema);
      }),
      { numRuns: 2000, seed: 7 },
    );
  });
});
