/**
 * Load on `lowbit serve` with pico: one client, then many, streaming questions whose greedy answers are known.
 *
 *     node packages/server/bench/load.ts [--clients 64] [--seconds 60] [--parallel 64] [--vanish 0.1]
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values: flags } = parseArgs({
  options: {
    clients: { type: "string", default: "64" },
    seconds: { type: "string", default: "60" },
    parallel: { type: "string", default: "64" },
    /** Share of requests whose client leaves in the midst. */
    vanish: { type: "string", default: "0.1" },
    model: { type: "string" },
  },
});
const clients = Number(flags.clients);
const seconds = Number(flags.seconds);
const vanish = Number(flags.vanish);

const program = fileURLToPath(new URL("../../cli/src/main.ts", import.meta.url));
const args = [
  program,
  "serve",
  "--port",
  "0",
  "--parallel",
  flags.parallel,
  "--contexts",
  flags.parallel,
  "--name",
  "pico",
  "--context",
  "512",
];
const server = spawn(process.execPath, flags.model ? [...args, flags.model] : args, {
  stdio: ["ignore", "inherit", "pipe"],
});
const url = await new Promise<string>((resolve, reject) => {
  server.stderr.setEncoding("utf8").on("data", (text: string) => {
    const found = /http:\S+\/v1/.exec(text);
    if (found) resolve(found[0]);
    else process.stderr.write(text);
  });
  server.on("close", (code) => reject(new Error(`the server ended with ${code}`)));
});

/** Why a client left. */
const left = new Error("left");

const nouns = ["cat", "dog", "king", "boat", "star", "cake", "frog", "bear"];
const questions = Array.from(
  { length: 64 },
  (_, i) => `Write a short story about a ${nouns[i % 8]} and ${i} apples.`,
);

interface Counts {
  tokens: number;
  answers: number;
  left: number;
  failed: number;
  crossed: number;
  readonly firstMs: number[];
}

async function ask(question: string, counts: Counts, leave: boolean): Promise<string> {
  const started = performance.now();
  const controller = new AbortController();
  const response = await fetch(`${url}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      model: "pico",
      messages: [{ role: "user", content: question }],
      temperature: 0,
      max_tokens: 100,
      stream: true,
    }),
    signal: controller.signal,
  });
  if (!response.ok) throw new Error(`status ${response.status}`);
  let text = "";
  let rest = "";
  let pieces = 0;
  const decoder = new TextDecoder();
  for await (const chunk of response.body ?? []) {
    rest += decoder.decode(chunk, { stream: true });
    const events = rest.split("\n\n");
    rest = events.pop() ?? "";
    for (const event of events) {
      if (event === "data: [DONE]") return text;
      const { error, choices } = JSON.parse(event.slice(6));
      if (error) throw new Error(error.message);
      const piece = choices[0].delta.content;
      if (!piece) continue;
      if (pieces++ === 0) counts.firstMs.push(performance.now() - started);
      counts.tokens++;
      text += piece;
    }
    if (leave && pieces > 10) {
      counts.left++;
      controller.abort(left);
    }
  }
  throw new Error("the stream ended early");
}

async function run(
  count: number,
  length: number,
  expected: readonly string[],
  leaving: number,
): Promise<Counts> {
  const counts: Counts = { tokens: 0, answers: 0, left: 0, failed: 0, crossed: 0, firstMs: [] };
  const end = performance.now() + length * 1000;
  const client = async (id: number): Promise<void> => {
    for (let i = id; performance.now() < end; i++) {
      const at = i % questions.length;
      try {
        const text = await ask(questions[at] ?? "", counts, (i * 7919) % 1000 < leaving * 1000);
        counts.answers++;
        if (text !== expected[at]) counts.crossed++;
      } catch (error) {
        if (error === left) continue;
        counts.failed++;
        if (counts.failed < 4) console.error(error);
      }
    }
  };
  await Promise.all(Array.from({ length: count }, (_, id) => client(id)));
  return counts;
}

function residentMb(): number {
  const status = readFileSync(`/proc/${server.pid}/status`, "utf8");
  return Math.round(Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1000);
}

/** User and system time of the server, in seconds: what a busy machine leaves of the wall clock does not change it. */
function cpuSeconds(): number {
  const fields = readFileSync(`/proc/${server.pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

const percentile = (values: readonly number[], share: number): string =>
  (values.toSorted((a, b) => a - b)[Math.floor(values.length * share)] ?? Number.NaN).toFixed(0);

async function measure(name: string, count: number, length: number, leaving: number): Promise<void> {
  const before = cpuSeconds();
  const { firstMs, ...counts } = await run(count, length, expected, leaving);
  const cpu = cpuSeconds() - before;
  console.log(
    `${name}: ${(counts.tokens / length).toFixed(0)} tokens/s, ${(counts.tokens / cpu).toFixed(0)} per second of the server's CPU; ${JSON.stringify(counts)}; ` +
      `first token after ${percentile(firstMs, 0.5)} ms (median), ${percentile(firstMs, 0.95)} ms (95 %); server ${residentMb()} MB`,
  );
}

const expected: string[] = [];
const warm: Counts = { tokens: 0, answers: 0, left: 0, failed: 0, crossed: 0, firstMs: [] };
for (const question of questions) expected.push(await ask(question, warm, false));
const short = Math.min(15, seconds);
await measure("1 client", 1, short, 0);
const memory: number[] = [];
const watch = setInterval(() => memory.push(residentMb()), (seconds * 1000) / 6);
await measure(`${clients} clients`, clients, seconds, vanish);
clearInterval(watch);
console.log(`server's memory over the time: ${memory.join(", ")} MB`);
await measure("1 client again", 1, short, 0);
const metrics = await (await fetch(url.replace(/v1$/, "metrics"))).text();
console.log(
  metrics
    .split("\n")
    .filter((line) => /^lowbit_(requests_|sequences|cache|memory)/.test(line))
    .join("\n"),
);
server.kill("SIGINT");
