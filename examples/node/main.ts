// Runs a model in Node.js: node main.ts [model.gguf] [question]
import { picoGguf } from "@lowbit/pico";
import { load } from "lowbit";

const [location = picoGguf, question = "What is 12 + 7?"] = process.argv.slice(2);

await using model = await load(location);
console.error(`${model.info.name ?? location} on ${model.info.backendDescription}`);

const request = { temperature: 0, maxTokens: 200 };
const events = model.generate(
  model.tokenizer.renderChat
    ? { messages: [{ role: "user", content: question }], ...request }
    : { prompt: question, ...request },
);
for await (const event of events) {
  if (event.type === "token" || event.type === "finish") process.stdout.write(event.text);
  if (event.type === "finish") console.error(`\n${event.timings.tokensPerSecond.toFixed(1)} tokens/s`);
}
