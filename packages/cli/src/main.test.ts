import { spawn } from "node:child_process";
import { existsSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { F32, writeGguf } from "@lowbit/gguf";
import { picoEvaluation, picoGguf } from "@lowbit/pico";
import { tinyModel, tinyModelBytes } from "@lowbit/testing/tiny-model";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Ended, program, type Workplace, workplace } from "../test/lowbit.ts";

let place: Workplace;
let folder: string;
const lowbit: Workplace["run"] = (args, options) => place.run(args, options);
beforeAll(() => {
  place = workplace();
  folder = place.folder;
});
afterAll(() => place.remove());

const greedy = ["--temperature", "0"];
const json = (ended: Ended) => JSON.parse(ended.stdout);

describe("lowbit run", () => {
  it("answers a prompt with pico, on standard output alone", async () => {
    const ended = await lowbit(["run", "-p", "What is 12 + 7?", ...greedy]);
    expect(ended).toEqual({ code: 0, stdout: "12 + 7 = 19.\n", stderr: "" });
  });

  it("reads the prompt from standard input", async () => {
    const ended = await lowbit(["run", ...greedy], { input: "What is the capital of France?" });
    expect(ended).toMatchObject({ code: 0, stdout: "The capital of France is Paris.\n" });
  });

  it("answers from a folder", async () => {
    const hf = fileURLToPath(new URL("../../../models/pico/hf", import.meta.url));
    const ended = await lowbit(["run", hf, "-p", "What is 12 + 7?", ...greedy]);
    expect(ended).toEqual({ code: 0, stdout: "12 + 7 = 19.\n", stderr: "" });
    const { format, tensors } = json(await lowbit(["inspect", hf, "--json"]));
    expect([format, tensors.length]).toEqual(["safetensors", 38]);
  });

  it("prints events as lines of JSON, and counts and speeds when asked", async () => {
    const ended = await lowbit(["run", "-p", "Who are you?", ...greedy, "--json", "--stats"]);
    const events = ended.stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    const text = events.map((event) => event.text ?? "").join("");
    expect(text).toBe("I am pico, a very small language model.");
    expect(events.at(-1)).toMatchObject({ type: "finish", reason: "end", usage: { cachedTokens: 0 } });
    expect(ended.stderr).toMatch(/^prompt \d+ tokens .* answer \d+ tokens .* ended by end\n$/);
  });

  it("chats: one turn after another, with commands", async () => {
    const input =
      "What is 12 + 7?\n/help\n/nonsense\n/clear\nWhat is the capital of France?\n/exit\nnot read\n";
    const ended = await lowbit(["run", "-i", ...greedy], { input });
    expect(ended.code).toBe(0);
    expect(ended.stdout).toBe("12 + 7 = 19.\nThe capital of France is Paris.\n");
    expect(ended.stderr.match(/\/clear forgets/g)).toHaveLength(2);
    expect(ended.stderr).toContain("There is no /nonsense.");
  });

  it("gives the same text for the same seed, and stops where it is told", async () => {
    const args = [
      "run",
      "-p",
      "Write a short story about a cat.",
      "--temperature",
      "1",
      "--seed",
      "7",
      "-n",
      "24",
    ];
    const [first, second] = [await lowbit(args), await lowbit(args)];
    expect(first).toEqual(second);
    expect(first.stdout.length).toBeGreaterThan(20);
    const stopped = await lowbit(["run", "-p", "What is 12 + 7?", ...greedy, "--stop", " = "]);
    expect(stopped.stdout).toBe("12 + 7\n");
  });

  it("stops on Ctrl-C with exit code 130", async () => {
    const endless = ["--logit-bias", "2=-100", "--logit-bias", "0=-100"];
    const args = ["run", "-p", "Write a short story about a cat.", ...greedy, ...endless];
    const ended = await lowbit(args, { signal: "SIGINT" });
    expect(ended).toMatchObject({ code: 130, stderr: "" });
  });

  it("lets a draft guess ahead, and refuses one of another vocabulary", async () => {
    const hf = fileURLToPath(new URL("../../../models/pico/hf", import.meta.url));
    const args = ["run", hf, "-p", "What is 12 + 7?", ...greedy, "--context", "128"];
    const ended = await lowbit([...args, "--draft", picoGguf.pathname, "--guess-tokens", "3"]);
    expect(ended).toEqual({ code: 0, stdout: "12 + 7 = 19.\n", stderr: "" });
    writeFileSync(join(folder, "draft.gguf"), await tinyModelBytes({ architecture: "llama" }));
    const refused = await lowbit([...args, "--draft", "draft.gguf"]);
    expect(refused).toMatchObject({ code: 2, stdout: "" });
    expect(refused.stderr).toMatch(/^lowbit: load: this draft cannot guess for the model: it has 320 tokens/);
  });

  it("goes on with a conversation from a file, and refuses what is none", async () => {
    const session = ["--session", "talk.session", "--context", "256", ...greedy];
    const first = await lowbit(["run", "-p", "What is 12 + 7?", ...session]);
    expect(first).toEqual({ code: 0, stdout: "12 + 7 = 19.\n", stderr: "" });
    const second = await lowbit(["run", "-p", "What is the capital of France?", ...session, "--stats"]);
    expect(second).toMatchObject({ code: 0, stdout: "The capital of France is Paris.\n" });
    expect(Number(/\((\d+) from the cache\)/.exec(second.stderr)?.[1])).toBeGreaterThan(15);
    const chat = await lowbit(["run", "-i", ...session, "--stats"], { input: "What is 12 + 7?\n" });
    expect(chat).toMatchObject({ code: 0, stdout: "12 + 7 = 19.\n" });
    expect(Number(/\((\d+) from the cache\)/.exec(chat.stderr)?.[1])).toBeGreaterThan(40);
    const damaged = readFileSync(join(folder, "talk.session"));
    damaged[damaged.length - 50]! ^= 1;
    writeFileSync(join(folder, "damaged.session"), damaged);
    const refused = await lowbit(["run", "-p", "Hello", "--session", "damaged.session", "--context", "256"]);
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toMatch(/^lowbit: This is not a whole session: page \d+ is damaged/);
    expect(readFileSync(join(folder, "damaged.session"))).toEqual(damaged);
  });

  it("writes beyond its context where it is told to", async () => {
    const endless = ["--logit-bias", "2=-100", "--logit-bias", "0=-100"];
    const args = [
      "run",
      "--raw",
      "-p",
      "Once upon a time",
      ...greedy,
      ...endless,
      "--context",
      "48",
      "--json",
    ];
    const last = async (more: string[]) =>
      JSON.parse((await lowbit([...args, ...more])).stdout.trimEnd().split("\n").at(-1) as string);
    const tokens = (finish: { usage: { completionTokens: number } }) => finish.usage.completionTokens;
    expect(tokens(await last([]))).toBeLessThan(49);
    const shift = ["--context-overflow", "shift", "--keep-tokens", "8", "-n", "100"];
    expect(tokens(await last(shift))).toBe(100);
  });

  it("runs on the reference backend with another cache and context", async () => {
    const options = ["--backend", "reference", "--kv", "q8_0", "--context", "64"];
    const ended = await lowbit(["run", "-p", "What is 12 + 7?", ...greedy, ...options]);
    expect(ended).toMatchObject({ code: 0, stdout: "12 + 7 = 19.\n" });
  });

  it("continues text with a model that has no chat template", async () => {
    writeFileSync(join(folder, "plain.gguf"), await tinyModelBytes({ architecture: "llama" }));
    expect(await lowbit(["run", "plain.gguf", "-p", "hello", ...greedy, "-n", "4"])).toMatchObject({
      code: 0,
    });
    const refused = await lowbit(["run", "plain.gguf", "-p", "hello", "-s", "Be kind."]);
    expect(refused).toMatchObject({ code: 2, stdout: "" });
    expect(refused.stderr).toMatch(/^lowbit: --system needs a chat template/);
  });
});

describe("lowbit convert", () => {
  const hf = fileURLToPath(new URL("../../../models/pico/hf", import.meta.url));

  it("writes another packing, says what it lost, and what it wrote runs", async () => {
    const output = join(folder, "pico-gptq");
    const args = ["convert", hf, "--to", "gptq", "--bits", "8", "-o", output];
    const ended = await lowbit([...args, "--report", join(folder, "report.json")]);
    expect(ended).toMatchObject({ code: 0 });
    expect(ended.stdout).toMatch(
      /exact +10 tensors[\s\S]*requantized +28 tensors.*relative error 0\.\d+ %[\s\S]*lowbit run/,
    );
    const report = JSON.parse(readFileSync(join(folder, "report.json"), "utf8"));
    expect(report.weights).toHaveLength(38);
    const shown = await lowbit(["inspect", output]);
    expect(shown.stdout).toMatch(/packing +gptq; bits 8; group size 128; symmetric true/);
    const answer = await lowbit(["run", output, "-p", "What is 12 + 7?", ...greedy]);
    expect(answer).toEqual({ code: 0, stdout: "12 + 7 = 19.\n", stderr: "" });
    // It is there now, and stays as it is.
    expect(await lowbit(args)).toMatchObject({ code: 2, stderr: expect.stringMatching(/overwrite/) });
  });

  it("refuses to round where that is asked", async () => {
    const output = join(folder, "refused");
    const ended = await lowbit(["convert", hf, "--to", "awq", "--group-size", "32", "--exact", "-o", output]);
    expect(ended).toMatchObject({ code: 1, stderr: expect.stringMatching(/layers\.0\.attn\.q/) });
    expect(existsSync(output)).toBe(false);
  });
});

describe("lowbit inspect", () => {
  it("tells what pico is and will take", async () => {
    const { code, stdout } = await lowbit(["inspect"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/architecture {2}llama\n/);
    expect(stdout).toMatch(/parameters {4}3\.41 M, 8\.5\d bits each/);
    expect(stdout).toMatch(
      /blk\.3\.ffn_down\.weight +layers\.3\.ffn\.down +256 × 768 {2}Q8_0 +8\.50 +209 kB/,
    );
    expect(stdout).toMatch(/together +[\d.]+ MB of at most/);
    expect(stdout).toMatch(/Cloudflare Workers \(128 MB\) +105 MB +[\d.]+ MB +1024 +f16/);
  });

  it("is JSON for programs", async () => {
    const result = json(await lowbit(["inspect", "--json"]));
    expect(result).toMatchObject({ format: "gguf", problems: [], config: { layers: 4, embeddingSize: 256 } });
    expect(result.tensors).toHaveLength(38);
    expect(result.tensors[0]).toMatchObject({ type: expect.any(String), bitsPerWeight: expect.any(Number) });
    expect(result.metadata["tokenizer.ggml.tokens"]).toEqual({ length: 1024 });
  });

  it("reads less than 1 MiB of a sparse file of more than 4 GiB", async () => {
    const path = join(folder, "sparse.gguf");
    const zeros = new Uint8Array(2 ** 24);
    const contents = tinyModel({
      architecture: "llama",
      embeddingSize: 4096,
      feedForwardSize: 14336,
      heads: 32,
      kvHeads: 8,
      layers: 6,
    });
    let header = true;
    // Only the header is written; the file is then given its full length.
    const length = await writeGguf(
      {
        write(bytes) {
          if (header) writeFileSync(path, bytes);
          header = false;
        },
      },
      {
        metadata: contents.metadata,
        tensors: contents.tensors.map((tensor) => ({
          ...tensor,
          type: F32,
          *data() {
            let left = 4 * tensor.shape.reduce((product, size) => product * size, 1);
            for (; left > 0; left -= zeros.length) yield zeros.subarray(0, Math.min(left, zeros.length));
          },
        })),
      },
    );
    truncateSync(path, length);
    expect(length).toBeGreaterThan(2 ** 32);
    const ended = await lowbit(["inspect", "sparse.gguf", "--json"]);
    expect(ended.code).toBe(0);
    expect(json(ended).readBytes).toBeLessThan(2 ** 20);
    expect(json(ended).tensors.length).toBeGreaterThan(50);
  });
});

describe("lowbit bench", () => {
  it("measures loading, reading and writing", async () => {
    const args = ["bench", "--prompt-tokens", "16", "--tokens", "4", "--repeat", "2", "--json"];
    const result = json(await lowbit(args));
    expect(result).toMatchObject({ model: "pico", architecture: "llama", promptTokens: 16, tokens: 4 });
    for (const value of [result.loadMs, result.promptTokensPerSecond, result.tokensPerSecond]) {
      expect(value).toBeGreaterThan(0);
    }
    expect(result.rounds).toHaveLength(2);
    const { stdout } = await lowbit(args.slice(0, -1));
    expect(stdout).toMatch(
      /^model .*\nbackend .*\nload .*\nread 16 .* tokens\/s .*\nwrite 4 .* tokens\/s .*\n$/,
    );
  });

  it("measures perplexity", async () => {
    const stories = readFileSync(new URL("perplexity_stories.jsonl", picoEvaluation), "utf8")
      .trimEnd()
      .split("\n");
    const text = stories.slice(0, 8).map((line) => JSON.parse(line).text);
    writeFileSync(join(folder, "text.txt"), text.join(" "));
    const result = json(await lowbit(["bench", "--perplexity", "text.txt", "--chunk", "64", "--json"]));
    expect(result.perplexity).toBeGreaterThan(1);
    expect(result.perplexity).toBeLessThan(4);
    expect(result.scoredTokens).toBeGreaterThan(60);
    const short = await lowbit(["bench", "--perplexity", "text.txt", "--chunk", "1024"]);
    expect(short.code).not.toBe(0);
    expect(short.stderr).toMatch(/^lowbit: [^\n]*1024[^\n]*\n$/);
  });
});

describe("lowbit tokenize", () => {
  it("encodes, from an option and from standard input, and decodes", async () => {
    const { ids, tokens } = json(await lowbit(["tokenize", "-t", "What is 12 + 7?", "--json"]));
    expect(ids).toHaveLength(tokens.length);
    expect(json(await lowbit(["tokenize", "--json"], { input: "What is 12 + 7?" })).ids).toEqual(ids);
    expect((await lowbit(["tokenize", "--decode", ids.join(",")])).stdout).toBe("What is 12 + 7?\n");
    const table = await lowbit(["tokenize", "-t", "a\u001b"]);
    expect(table.stdout).toMatch(/^ *id {2}token\n/);
    expect(table.stdout).not.toContain("\u001b");
    expect(table.stderr).toBe("2 tokens\n");
  });

  it("reads special tokens in text only when told to", async () => {
    const plain = json(await lowbit(["tokenize", "-t", "<|im_end|>", "--json"]));
    const special = json(await lowbit(["tokenize", "-t", "<|im_end|>", "--parse-special", "--json"]));
    expect(special.ids).toEqual([2]);
    expect(plain.ids.length).toBeGreaterThan(1);
    expect((await lowbit(["tokenize", "-d", "2"])).stdout).toBe("<|im_end|>\n");
    expect((await lowbit(["tokenize", "-d", "2", "--no-special"])).stdout).toBe("\n");
    expect(await lowbit(["tokenize", "-d", "9999"])).toMatchObject({ code: 2 });
  });
});

describe("the command line", () => {
  it.each([[], ["run"], ["inspect"], ["convert"], ["bench"], ["tokenize"]])(
    "has help for %s",
    async (...command) => {
      const ended = await lowbit([...command, "--help"]);
      expect(ended).toMatchObject({ code: 0, stderr: "" });
      expect(ended.stdout).toMatch(/^Usage: lowbit/);
    },
  );

  it("knows its version", async () => {
    expect((await lowbit(["--version"])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it.each([
    [[]],
    [["fly"]],
    [["run", "--temprature", "1"]],
    [["run", "--temperature"]],
    [["run", "--temperature", "warm", "-p", "x"]],
    [["run", "--temperature", "-1", "-p", "x"]],
    [["run", "a.gguf", "b.gguf", "-p", "x"]],
    [["run", "-p", "x", "--interactive"]],
    [["run", "-p", ""]],
    [["tokenize", "-t", "x", "-d", "1"]],
    [["tokenize", "-d", "x"]],
    [["convert"]],
    [["convert", "--to", "nothing"]],
    [["convert", "--to", "gptq", "--symmetric", "--asymmetric"]],
    [["convert", "--to", "gptq", "--bits", "four"]],
    [["convert", "--to", "gguf", "--bits", "4"]],
  ])("ends %j with exit code 2 and a hint", async (args) => {
    const { code, stdout, stderr } = await lowbit(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toMatch(/^(lowbit: |Usage: )/);
    expect(stderr).not.toMatch(/^ {4}at /m);
  });

  it("says in one line what is wrong with a file, and where only for developers", async () => {
    writeFileSync(join(folder, "broken.gguf"), "GGUF\u0003\u0000\u0000\u0000cut");
    for (const args of [["run", "-p", "x"], ["inspect"], ["bench"], ["tokenize", "-t", "x"]]) {
      const [command = "", ...rest] = args;
      const ended = await lowbit([command, "broken.gguf", ...rest]);
      expect(ended).toMatchObject({ code: 1, stdout: "" });
      expect(ended.stderr).toMatch(/^lowbit: [^\n]*broken\.gguf[^\n]*\n$/);
    }
    const missing = await lowbit(["run", "missing.gguf", "-p", "x"]);
    expect(missing).toMatchObject({ code: 1, stdout: "" });
    expect(missing.stderr).toMatch(/^lowbit: [^\n]*missing\.gguf[^\n]*\n$/);
    const debugged = await lowbit(["inspect", "broken.gguf"], { env: { LOWBIT_DEBUG: "1" } });
    expect(debugged.stderr).toMatch(/^ {4}at /m);
  });

  it("ends quietly when nobody reads on", async () => {
    const child = spawn(process.execPath, [program, "inspect", fileURLToPath(picoGguf), "--json"]);
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text) => {
      stderr += text;
    });
    child.stdout.destroy();
    const code = await new Promise((done) => child.on("close", done));
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  });
});
