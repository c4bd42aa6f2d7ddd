import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import { describeOpenAiClients } from "@lowbit/testing/openai-clients";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { program } from "../test/lowbit.ts";

interface Served {
  readonly child: ChildProcess;
  readonly url: string;
  readonly ended: Promise<number | null>;
  readonly stderr: () => string;
}

async function serve(args: readonly string[], env: Record<string, string> = {}): Promise<Served> {
  const child = spawn(process.execPath, [program, "serve", "--port", "0", ...args], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let text = "";
  const ended = new Promise<number | null>((done) => child.on("close", done));
  const url = await new Promise<string>((resolve, reject) => {
    child.stderr?.setEncoding("utf8").on("data", (chunk) => {
      text += chunk;
      const found = /http:\S+\/v1/.exec(text);
      if (found) resolve(found[0]);
    });
    ended.then((code) => reject(new Error(`it ended with ${code}: ${text}`)));
  });
  return { child, url, ended, stderr: () => text };
}

const question = { role: "user", content: "What is 12 + 7?" } as const;
const chat = { model: "pico", messages: [question], temperature: 0 };

describe("lowbit serve", () => {
  let served: Served;
  let openai: OpenAI;
  beforeAll(async () => {
    served = await serve(["--api-key", "secret", "--parallel", "2", "--queue", "1", "--cors", "*"]);
    openai = new OpenAI({ baseURL: served.url, apiKey: "secret", maxRetries: 0 });
  });
  afterAll(() => void served?.child.kill("SIGKILL"));

  describeOpenAiClients(() => ({ baseURL: served.url, apiKey: "secret", model: "pico" }));

  it("chooses among tools, and refuses schemas that it cannot keep to", async () => {
    const parameters = (...names: string[]) => ({
      type: "object",
      properties: Object.fromEntries(names.map((name) => [name, { type: "string" }])),
      required: names,
    });
    const tools = [
      {
        type: "function" as const,
        function: { name: "set_light", parameters: parameters("place", "state") },
      },
      { type: "function" as const, function: { name: "find_route", parameters: parameters("start", "end") } },
    ];
    const route = [{ role: "user" as const, content: "Find a route from Brussels to Athens." }];
    const stream = openai.chat.completions.stream({ ...chat, messages: route, tools });
    const { message, finish_reason } = (await stream.finalChatCompletion()).choices[0] ?? {};
    expect(finish_reason).toBe("tool_calls");
    const called = message?.tool_calls?.map((call) => (call.type === "function" ? call.function : undefined));
    expect(called?.[0]?.name).toBe("find_route");
    expect(JSON.parse(called?.[0]?.arguments ?? "")).toEqual({ start: "Brussels", end: "Athens" });
    const schema = { type: "object", if: {} };
    const response_format = { type: "json_schema" as const, json_schema: { name: "sum", schema } };
    await expect(openai.chat.completions.create({ ...chat, response_format })).rejects.toMatchObject({
      status: 400,
      param: "response_format",
    });
  });

  it("completes texts", async () => {
    const completion = await openai.completions.create({
      model: "pico",
      prompt: "Once upon a",
      max_tokens: 3,
    });
    expect(completion.usage?.completion_tokens).toBe(3);
  });

  it("reports errors by their status", async () => {
    const stranger = new OpenAI({ baseURL: served.url, apiKey: "wrong", maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toMatchObject({ status: 401 });
    await expect(openai.chat.completions.create({ ...chat, model: "gpt" })).rejects.toMatchObject({
      status: 404,
    });
    await expect(openai.chat.completions.create({ ...chat, n: 2 })).rejects.toMatchObject({
      status: 400,
      param: "n",
    });
    const large = { ...chat, user: "x".repeat(5 * 2 ** 20) };
    await expect(openai.chat.completions.create(large)).rejects.toMatchObject({ status: 413 });
    const long = [{ role: "user" as const, content: "a b ".repeat(2000) }];
    await expect(openai.chat.completions.create({ ...chat, messages: long })).rejects.toMatchObject({
      status: 400,
      code: "context_length_exceeded",
    });
  });

  it("turns the fourth of four long answers away, and goes on when clients vanish", async () => {
    // Never an end token: only the context ends these.
    const endless = { ...chat, stream: true as const, logit_bias: { "0": -100, "2": -100 } };
    const clients = [0, 1, 2].map(() => new AbortController());
    const open = clients.slice(0, 2).map(({ signal }) => openai.chat.completions.create(endless, { signal }));
    await Promise.all(open);
    const waiting = openai.chat.completions.create(endless, { signal: clients[2]?.signal });
    const metric = async (name: string): Promise<number> => {
      const response = await fetch(`${served.url.slice(0, -3)}/metrics`, {
        headers: { authorization: "Bearer secret" },
      });
      return Number(new RegExp(`^lowbit_${name} (\\d+)`, "m").exec(await response.text())?.[1]);
    };
    await expect.poll(() => metric("requests_waiting")).toBe(1);
    await expect(openai.chat.completions.create(chat)).rejects.toMatchObject({ status: 429 });
    for (const client of clients) client.abort();
    await waiting.catch(() => undefined);
    await expect.poll(() => metric("requests_running")).toBe(0);
    expect((await openai.chat.completions.create(chat)).choices[0]?.message.content).toBe("12 + 7 = 19.");
  });

  it("ends on Ctrl-C, when the answers in work are written", async () => {
    const stream = await openai.chat.completions.create({ ...chat, stream: true });
    served.child.kill("SIGINT");
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    expect([text, await served.ended]).toEqual(["12 + 7 = 19.", 0]);
    expect(served.stderr()).toMatch(/^pico at http:\/\/127\.0\.0\.1:\d+\/v1\. Ctrl-C ends it\.\n$/);
  });
});

describe("lowbit serve that cannot", () => {
  it("says that the port is taken", async () => {
    const other = createServer();
    await new Promise<void>((done) => other.listen(0, "127.0.0.1", done));
    const { port } = other.address() as { port: number };
    await expect(serve(["--port", String(port)])).rejects.toThrow(
      /ended with 2: lowbit: Cannot listen on 127\.0\.0\.1/,
    );
    other.close();
  });

  it("ends with the error of a model that does not load", async () => {
    await expect(serve(["/gone.gguf"])).rejects.toThrow(/ended with 1: lowbit: .*gone\.gguf/);
  });
});
