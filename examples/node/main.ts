// Runs a model in Node.js: node main.ts [path, URL or hf:org/repository] [question]
import { picoGguf } from "@lowbit/pico";
import { LowbitError, load } from "lowbit";

const [location = picoGguf, question = "What is 12 + 7?"] = process.argv.slice(2);

/** Ctrl-C ends loading, or the answer after its next token; a second one ends the process at once. */
const interrupt = new AbortController();
const { signal } = interrupt;
process.once("SIGINT", () => interrupt.abort());

try {
  await using model = await load(location, {
    cache: true, // what was downloaded is there at the next start
    signal,
    onProgress({ phase, doneBytes, totalBytes }) {
      if (phase === "download" && process.stderr.isTTY)
        process.stderr.write(`\r${Math.floor((100 * doneBytes) / totalBytes)} % downloaded`);
    },
  });
  console.error(`${model.info.name ?? location} on ${model.info.backendDescription}`);

  const request = { temperature: 0, maxTokens: 200, signal };
  const events = model.generate(
    model.tokenizer.renderChat
      ? { messages: [{ role: "user", content: question }], ...request }
      : { prompt: question, ...request },
  );
  for await (const event of events) {
    if (event.type === "token" || event.type === "finish") process.stdout.write(event.text);
    if (event.type === "finish") console.error(`\n${event.timings.tokensPerSecond.toFixed(1)} tokens/s`);
  }
} catch (error) {
  if (!signal.aborted) console.error(LowbitError.is(error) ? error.message : error);
  process.exitCode = signal.aborted ? 130 : 1;
}
