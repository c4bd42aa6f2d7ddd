import { describe, expect, it } from "vitest";
import * as z from "zod";
import { allows, constraintOf, refusal } from "../test/texts.ts";

/** Which of these JSON texts are whole under the schema. */
const kept = (schema: object | boolean, texts: readonly string[], strict = true): string[] =>
  texts.filter((text) => allows(schema, text, strict));

describe("values", () => {
  it("of each type", () => {
    const texts = ["null", "true", "0", "-1.5", '"a"', "[]", "[1]", "{}", '{"a":1}'];
    expect(kept({ type: "null" }, texts)).toEqual(["null"]);
    expect(kept({ type: "boolean" }, texts)).toEqual(["true"]);
    expect(kept({ type: "integer" }, texts)).toEqual(["0"]);
    expect(kept({ type: "number" }, texts)).toEqual(["0", "-1.5"]);
    expect(kept({ type: "string" }, texts)).toEqual(['"a"']);
    expect(kept({ type: "array" }, texts)).toEqual(["[]", "[1]"]);
    expect(kept({ type: "object" }, texts)).toEqual(["{}", '{"a":1}']);
    expect(kept(true, texts)).toEqual(texts);
    expect(kept({}, texts)).toEqual(texts);
    expect(kept({ type: ["string", "null"] }, texts)).toEqual(["null", '"a"']);
    expect(kept({ type: "string", nullable: true }, texts)).toEqual(["null", '"a"']);
    expect(kept({ type: "number", multipleOf: 1 }, texts)).toEqual(["0"]);
  });

  it("listed in enum and const, those that meet the other conditions", () => {
    const texts = ["1", "2", '"a"', '"abc"', "null", '{"a":[1,2]}'];
    expect(kept({ enum: [1, "a", { a: [1, 2] }] }, texts)).toEqual(["1", '"a"', '{"a":[1,2]}']);
    expect(kept({ enum: [1, "a", "abc"], type: "string" }, texts)).toEqual(['"a"', '"abc"']);
    expect(kept({ enum: [1, "a", "abc"], type: "string", minLength: 2 }, texts)).toEqual(['"abc"']);
    expect(kept({ enum: [1, 2], allOf: [{ enum: [2, 3] }] }, texts)).toEqual(["2"]);
    expect(kept({ const: null }, texts)).toEqual(["null"]);
    expect(kept({ enum: [1, "a"], nullable: true }, texts)).toEqual(["1", '"a"']);
  });

  it("of strings by length in characters, whatever their escapes", () => {
    const schema = { type: "string", minLength: 2, maxLength: 3 };
    expect(kept(schema, ['"a"', '"ab"', '"abc"', '"abcd"'])).toEqual(['"ab"', '"abc"']);
    expect(allows(schema, '"😀😀😀"')).toBe(true);
    expect(allows(schema, '"\\ud83d\\ude00\\n\\u0041"')).toBe(true);
    expect(allows(schema, '"\\ud83d\\ude00"')).toBe(false);
  });

  it("of strings that are JSON and UTF-8: no raw control character, no half a surrogate pair, nothing overlong", () => {
    const string = { type: "string" };
    for (const text of ['"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\\uD834\\uDD1E"', '"\u007f é 日本 😀"'])
      expect(allows(string, text), text).toBe(true);
    for (const text of ['"\n"', '"\t"', '"\\x41"', '"\\ud834"', '"\\udd1e"', '"\\ud834\\u0041"', "'a'"])
      expect(allows(string, text), text).toBe(false);
    for (const bytes of [
      [0xc0, 0xaf],
      [0xed, 0xa0, 0x80],
      [0xf5, 0x80, 0x80, 0x80],
      [0x80],
      [0xe0, 0x80, 0x80],
    ]) {
      const constraint = constraintOf(string);
      expect(
        [0x22, ...bytes].every((byte) => constraint.accept(byte)),
        `${bytes}`,
      ).toBe(false);
    }
  });

  it("in a type that the keywords imply", () => {
    expect(kept({ minLength: 1 }, ['"a"', '""', "1"])).toEqual(['"a"']);
    expect(kept({ minimum: 2 }, ["1", "2", "2.5", '"a"'])).toEqual(["2", "2.5"]);
    expect(kept({ items: { type: "null" } }, ["[null]", "[1]", "{}"])).toEqual(["[null]"]);
    expect(kept({ required: ["a"] }, ['{"a":1}', "{}", "1"])).toEqual(['{"a":1}']);
  });
});

describe("objects", () => {
  const schema = {
    type: "object",
    properties: { a: { type: "integer" }, b: { type: "boolean" }, c: { type: "null" } },
    required: ["b"],
  };

  it("have their properties in the order of the schema, those required always", () => {
    expect(
      kept(schema, ['{"b":true}', '{"a":1,"b":true}', '{"a":1,"b":true,"c":null}', '{"b":true,"c":null}']),
    ).toHaveLength(4);
    expect(
      kept(schema, ["{}", '{"a":1}', '{"b":true,"a":1}', '{"b":1}', '{"b":true,}', '{"b":true,"b":true}']),
    ).toEqual([]);
  });

  it("may have one space after comma and colon, and no other", () => {
    expect(allows(schema, '{"a": 1, "b":true, "c": null}')).toBe(true);
    for (const text of ['{ "b":true}', '{"b" :true}', '{"b":  true}', '{"b":true }', '{"b":\ntrue}'])
      expect(allows(schema, text), text).toBe(false);
  });

  it("are closed where strict, unless the schema opens them", () => {
    const text = ['{"b":true,"x":1}'];
    expect(kept(schema, text)).toEqual([]);
    expect(kept(schema, text, false)).toEqual(text);
    expect(kept({ ...schema, additionalProperties: true }, text)).toEqual(text);
    expect(kept({ ...schema, additionalProperties: false }, text, false)).toEqual([]);
    expect(kept({ ...schema, unevaluatedProperties: false }, text, false)).toEqual([]);
    expect(
      kept({ ...schema, additionalProperties: { type: "string" } }, [
        '{"b":true,"x":1}',
        '{"b":true,"x":"y"}',
      ]),
    ).toEqual(['{"b":true,"x":"y"}']);
  });

  it("cannot smuggle a property's name in by an escape, or by patternProperties", () => {
    const open = {
      type: "object",
      properties: { a: { type: "integer" } },
      additionalProperties: { type: "string" },
    };
    expect(kept(open, ['{"a":"x"}', '{"\\u0061":"x"}', '{"ab":"x"}', '{"":"x"}', '{"a":1,"a":"x"}'])).toEqual(
      ['{"ab":"x"}', '{"":"x"}'],
    );
    const patterned = {
      type: "object",
      patternProperties: { "^n_": { type: "number" }, _s$: { type: "integer" } },
    };
    expect(
      kept(patterned, ['{"n_a":1.5}', '{"n_s":1.5}', '{"n_s":1}', '{"x":1}', '{"x_s":2,"n_":1}']),
    ).toEqual(['{"n_a":1.5}', '{"n_s":1}', '{"x_s":2,"n_":1}']);
    const named = {
      type: "object",
      properties: { n_x: { type: "integer" } },
      patternProperties: { "^n_": { maximum: 5 } },
    };
    expect(kept(named, ['{"n_x":5}', '{"n_x":6}', '{"n_x":1.5}', '{"n_y":4.5}'])).toEqual([
      '{"n_x":5}',
      '{"n_y":4.5}',
    ]);
  });

  it("take propertyNames", () => {
    const record = {
      type: "object",
      propertyNames: { pattern: "^[a-z]{2}$" },
      additionalProperties: { type: "integer" },
    };
    expect(kept(record, ['{"ab":1}', '{"abc":1}', "{}", '{"ab":1,"cd":2}'])).toEqual([
      '{"ab":1}',
      "{}",
      '{"ab":1,"cd":2}',
    ]);
    const keys = { type: "object", propertyNames: { enum: ["x", "y"] }, additionalProperties: true };
    expect(kept(keys, ['{"x":1}', '{"z":1}'])).toEqual(['{"x":1}']);
  });

  it("require names that have no schema of their own", () => {
    expect(kept({ type: "object", required: ["q"] }, ['{"q":[1]}', "{}", '{"p":1,"q":1}'])).toEqual([
      '{"q":[1]}',
    ]);
  });

  it("keep odd names as they are", () => {
    const names = {
      type: "object",
      properties: { __proto__x: {}, 'a"b': { const: 1 }, "é\n": { const: 2 } },
      required: ['a"b', "é\n"],
    };
    expect(allows(names, JSON.stringify({ 'a"b': 1, "é\n": 2 }))).toBe(true);
    const proto = JSON.parse(
      '{"type":"object","properties":{"__proto__":{"const":1}},"required":["__proto__"]}',
    ) as object;
    expect(kept(proto, ['{"__proto__":1}', '{"__proto__":2}', "{}"])).toEqual(['{"__proto__":1}']);
  });
});

describe("arrays", () => {
  const texts = [
    "[]",
    "[1]",
    "[1,2]",
    "[1, 2, 3]",
    "[1,2,3,4]",
    '["a"]',
    '["a",1]',
    '["a",1,2]',
    '["a","b"]',
  ];
  const integers = { type: "array", items: { type: "integer" } };

  it("of a length", () => {
    expect(kept({ ...integers, minItems: 1, maxItems: 2 }, texts)).toEqual(["[1]", "[1,2]"]);
    expect(kept({ ...integers, minItems: 2 }, texts)).toEqual(["[1,2]", "[1, 2, 3]", "[1,2,3,4]"]);
    expect(kept({ ...integers, maxItems: 0 }, texts)).toEqual(["[]"]);
    expect(kept({ type: "array", items: false }, texts)).toEqual(["[]"]);
  });

  it("with a prefix", () => {
    const prefixed = { type: "array", prefixItems: [{ type: "string" }, { type: "integer" }] };
    expect(kept({ ...prefixed, items: { type: "integer" } }, texts)).toEqual([
      "[]",
      '["a"]',
      '["a",1]',
      '["a",1,2]',
    ]);
    expect(kept({ ...prefixed, items: false, minItems: 1 }, texts)).toEqual(['["a"]', '["a",1]']);
    expect(kept({ type: "array", prefixItems: [true, false], minItems: 1 }, texts)).toEqual(["[1]", '["a"]']);
  });
});

describe("combinations", () => {
  it("anyOf and oneOf are alternatives, with what stands beside them", () => {
    const schema = { anyOf: [{ type: "string" }, { type: "integer", minimum: 5 }], maximum: 7 };
    expect(kept(schema, ['"x"', "4", "5", "8"])).toEqual(['"x"', "5"]);
    const tagged = {
      oneOf: ["circle", "square"].map((kind) => ({
        type: "object",
        properties: { kind: { const: kind }, [kind]: { type: "integer" } },
        required: ["kind", kind],
      })),
    };
    expect(
      kept(tagged, [
        '{"kind":"circle","circle":1}',
        '{"kind":"square","square":1}',
        '{"kind":"circle","square":1}',
      ]),
    ).toHaveLength(2);
  });

  it("allOf merges", () => {
    const schema = {
      allOf: [
        { type: "object", properties: { a: { type: "integer", minimum: 1 } }, required: ["a"] },
        { properties: { a: { maximum: 3 }, b: { type: "null" } } },
      ],
    };
    expect(
      kept(schema, ['{"a":2}', '{"a":4}', '{"a":0}', '{"a":2,"b":null}', '{"b":null}', '{"a":1,"c":1}']),
    ).toEqual(['{"a":2}', '{"a":2,"b":null}']);
    // Each additionalProperties knows the properties beside it alone.
    const closed = {
      allOf: [{ properties: { a: {} }, additionalProperties: false }, { properties: { b: {} } }],
    };
    expect(kept(closed, ['{"a":1}', '{"b":1}'])).toEqual(['{"a":1}']);
    expect(
      kept({ allOf: [{ type: "number" }, { type: ["integer", "string"] }] }, ["1", "1.5", '"a"']),
    ).toEqual(["1"]);
  });

  it("references go anywhere in the schema, and around", () => {
    const tree = {
      $ref: "#/$defs/no~1de%20x",
      $defs: {
        "no/de x": {
          type: "object",
          properties: { v: { type: "integer" }, sub: { type: "array", items: { $ref: "#" } } },
          required: ["v"],
        },
      },
    };
    expect(allows(tree, '{"v":1,"sub":[{"v":2},{"v":3,"sub":[]}]}')).toBe(true);
    expect(allows(tree, '{"v":1,"sub":[{"sub":[]}]}')).toBe(false);
  });

  it("nest to 64 levels and always find back", () => {
    const list = {
      type: "object",
      properties: { next: { anyOf: [{ $ref: "#" }, { type: "null" }] } },
      required: ["next"],
    };
    const deep = (depth: number): string => `${'{"next":'.repeat(depth)}null${"}".repeat(depth)}`;
    expect(allows(list, deep(30))).toBe(true);
    expect(allows(list, deep(200))).toBe(false);
    const constraint = constraintOf(list);
    let depth = 0;
    while ([...'{"next":'].every((character) => constraint.accept(character.charCodeAt(0)))) depth++;
    expect(depth).toBeGreaterThan(30);
    // Where it goes no deeper, the other alternative is left.
    expect([..."null"].every((character) => constraint.accept(character.charCodeAt(0)))).toBe(true);
    for (let left = depth; left > 0; left--) expect(constraint.accept(0x7d)).toBe(true);
    expect(constraint.done).toBe(true);
  });
});

describe("schemas of libraries", () => {
  it("convert themselves", () => {
    const schema = z.object({
      name: z.string().min(1).max(20),
      age: z.int().min(0).optional(),
      kind: z.enum(["a", "b"]),
      mail: z.email(),
      tags: z.array(z.string()).max(2),
      at: z.iso.datetime(),
      scores: z.record(z.string(), z.number()),
      either: z.union([z.literal(1), z.null()]),
      uuid: z.uuid(),
    });
    const value = {
      name: "x",
      age: 3,
      kind: "b",
      mail: "a@b.co",
      tags: ["t"],
      at: "2024-02-29T10:00:00Z",
      scores: { s: 1.5 },
      either: null,
      uuid: "123e4567-e89b-42d3-a456-426614174000",
    };
    const text = JSON.stringify(value);
    expect(schema.parse(JSON.parse(text))).toEqual(value);
    expect(allows(schema, text)).toBe(true);
    expect(allows(schema, text.replace("a@b.co", ".a@b.co"))).toBe(false);
    expect(allows(schema, text.replace('"kind":"b"', '"kind":"c"'))).toBe(false);
  });

  it("that cannot are refused with a reason", () => {
    expect(refusal({ "~standard": { version: 1, vendor: "old", validate: () => ({ value: 1 }) } })).toMatch(
      /old has no converter/,
    );
    expect(refusal(z.object({ at: z.date() }))).toMatch(/zod cannot be written as JSON Schema/);
  });
});
