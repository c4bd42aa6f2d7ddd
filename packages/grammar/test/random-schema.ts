/** Random schemas over everything that is supported, each with some text that fits it. */

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type RandomSchema = { [key: string]: Json };

const words = [
  "a",
  "id",
  "name",
  "größe",
  "x y",
  'q"uote',
  "back\\slash",
  "日本",
  "tab\t",
  "😀",
  "a/b~c",
  "value",
  "items",
];
const patterns = [
  "^[a-z]{2,5}$",
  "^(?:foo|bar)+$",
  "^.{0,3}\\d{3}-\\d{4}",
  '^[^"\\\\]{1,8}$',
  "^(?!no)[a-z]+$",
  "^\\w{1,9}@\\w{1,9}\\.com$",
  "^.{0,4}[\\u4e00-\\u9fff]{2}$",
  "^x.{0,2}$|^y$",
  "^(?=.*[0-9])[a-z0-9]{3,8}$",
  "^.{3}$",
];
const formats = ["date", "time", "date-time", "duration", "uuid", "email", "hostname", "ipv4", "ipv6", "uri"];

export function randomSchema(random: () => number): RandomSchema {
  const below = (limit: number): number => Math.floor(random() * limit);
  const chance = (share: number): boolean => random() < share;
  const one = <T>(list: readonly T[]): T => list[below(list.length)]!;
  const some = <T>(list: readonly T[], most: number): T[] => {
    const chosen = new Set<T>();
    for (let left = below(most + 1); left > 0; left--) chosen.add(one(list));
    return [...chosen];
  };

  const definitions: RandomSchema = {};

  const numeric = (): RandomSchema => {
    const integer = chance(0.5);
    const schema: RandomSchema = { type: integer ? "integer" : "number" };
    const scale = one([1, 10, 1000, 0.1, 1e6]);
    const bound = (): number => {
      const value = (random() - 0.4) * scale * 10;
      return integer || chance(0.4) ? Math.round(value) : Number(value.toPrecision(1 + below(8)));
    };
    const low = bound();
    if (chance(0.5)) schema[chance(0.7) ? "minimum" : "exclusiveMinimum"] = low;
    // Wide enough that there is something in between, on any scale.
    if (chance(0.5))
      schema[chance(0.7) ? "maximum" : "exclusiveMaximum"] =
        low + (integer ? 2 + below(500) : scale * (0.5 + random()));
    return schema;
  };

  const text = (): RandomSchema => {
    const schema: RandomSchema = { type: "string" };
    const kind = below(4);
    if (kind === 0) schema.pattern = one(patterns);
    if (kind === 1) schema.format = one(formats);
    if (kind >= 2 && chance(0.6)) {
      const least = below(6);
      if (chance(0.6)) schema.minLength = least;
      if (chance(0.8)) schema.maxLength = least + below(10);
    }
    if (kind === 0 && chance(0.3)) schema.maxLength = 8 + below(10);
    return schema;
  };

  const plain = (depth: number): Json => {
    const kind = below(depth > 1 ? 4 : 6);
    if (kind === 0) return one([null, true, false]);
    if (kind === 1) return one([0, -1, 1.5, 1e21, 12345]);
    if (kind <= 3) return one(words);
    if (kind === 4) return [plain(depth + 1), plain(depth + 1)];
    return { [one(words)]: plain(depth + 1) };
  };

  const object = (depth: number): RandomSchema => {
    const names = some(words, 4);
    const schema: RandomSchema = { type: "object" };
    if (names.length > 0) schema.properties = Object.fromEntries(names.map((name) => [name, any(depth + 1)]));
    if (chance(0.7)) schema.required = names.filter(() => chance(0.6));
    if (chance(0.4)) schema.additionalProperties = chance(0.5) ? false : any(depth + 1);
    if (chance(0.15)) schema.patternProperties = { [one(["^x_", "[0-9]$", "^[a-z]+$"])]: any(depth + 1) };
    if (chance(0.1) && schema.additionalProperties !== false)
      schema.propertyNames = one<RandomSchema>([{ type: "string" }, { maxLength: 12 }]);
    return schema;
  };

  const array = (depth: number): RandomSchema => {
    const schema: RandomSchema = { type: "array" };
    if (chance(0.7)) schema.items = any(depth + 1);
    if (chance(0.25)) {
      schema.prefixItems = Array.from({ length: 1 + below(2) }, () => any(depth + 1));
      if (chance(0.3)) schema.items = false;
    }
    const closed = schema.items === false;
    const least = below(3);
    if (chance(0.5) && !closed) schema.minItems = least;
    if (chance(0.6)) schema.maxItems = least + below(3);
    return schema;
  };

  const any = (depth: number): Json => {
    const kind = depth > 3 ? below(5) : below(12);
    switch (kind) {
      case 0:
        return { type: one(["null", "boolean"]) };
      case 1:
        return numeric();
      case 2:
        return text();
      case 3:
        return chance(0.5) ? { enum: [plain(0), plain(0), plain(0)] } : { const: plain(0) };
      case 4:
        return chance(0.3) ? true : { type: ["string", "integer", "null"].slice(below(2)) };
      case 5:
      case 6:
        return object(depth);
      case 7:
        return array(depth);
      case 8:
        return {
          [one(["anyOf", "oneOf"])]: [
            text(),
            { type: "integer" },
            chance(0.5) ? object(depth) : { type: "null" },
          ],
        };
      case 9: {
        const [name] = some(words, 1);
        const extra: RandomSchema = { type: "object", properties: { extra: any(depth + 1) } };
        return {
          allOf: [
            { type: "object", properties: { [name ?? "b"]: any(depth + 1) }, required: [name ?? "b"] },
            extra,
          ],
        };
      }
      case 10: {
        const name = one(["left", "node", "tree"]);
        definitions[name] ??= {
          type: "object",
          properties: { value: text(), next: { anyOf: [{ type: "null" }, { $ref: `#/$defs/${name}` }] } },
          required: ["value", "next"],
        };
        return { $ref: `#/$defs/${name}` };
      }
      default:
        return { type: ["integer", "number"][below(2)]!, enum: [1, 2, 2.5, "three"] };
    }
  };

  const root = any(0);
  const schema: RandomSchema =
    typeof root === "object" && root !== null && !Array.isArray(root) ? root : object(0);
  return Object.keys(definitions).length > 0 ? { ...schema, $defs: definitions } : schema;
}
