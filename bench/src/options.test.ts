import { expect, it } from "vitest";
import { help, type Settings, settingsOf } from "./options.ts";
import { allEngines } from "./plan.ts";

function run(...args: string[]): Extract<Settings, { action: "run" }> {
  const settings = settingsOf(args);
  if (settings.action !== "run") throw new Error(`It would ${settings.action}.`);
  return settings;
}

it("without arguments: what claims rest on", () => {
  const { cells, fresh, minutes } = run();
  expect(cells.map(({ shape, type, threads }) => `${shape} ${type} ${threads}`)).toEqual([
    "qwen2.5-0.5b Q4_0 1",
    "qwen2.5-0.5b Q4_0 2",
    "qwen2.5-0.5b Q4_K_M 1",
    "qwen2.5-0.5b Q4_K_M 2",
    "qwen2.5-0.5b Q8_0 1",
    "qwen2.5-0.5b Q8_0 2",
  ]);
  for (const cell of cells) {
    expect(cell).toMatchObject({ prompts: [128, 512], contexts: [128, 2048], engines: allEngines });
    expect(cell.rounds).toBeGreaterThanOrEqual(5);
  }
  expect([fresh, minutes]).toEqual([false, Number.POSITIVE_INFINITY]);
});

it("the matrix begins with the same cells, and has every shape and type once, the main types with every number of threads", () => {
  const { cells, out } = run("--matrix", "--minutes", "40");
  const key = ({ shape, type, threads }: (typeof cells)[number]) => `${shape} ${type} ${threads}`;
  expect(cells.slice(0, 6).map(key)).toEqual(run().cells.map(key));
  for (const cell of cells.slice(0, 6)) expect(cell.rounds).toBeGreaterThanOrEqual(5);
  expect(new Set(cells.map(key)).size).toBe(cells.length);
  expect(cells).toHaveLength(3 * (3 * 2 + 3));
  expect(out).toMatch(/results\/matrix\.json$/);
  // Where lowbit is alone, and where the others run, too.
  const enginesOf = (type: string) => cells.filter((cell) => cell.type === type)[0]?.engines;
  expect(enginesOf("EXL2-4.25")).toEqual(["lowbit", "lowbit-chromium"]);
  expect(enginesOf("Q4_K_M")).toContain("node-llama-cpp");
});

it("single choices change every cell", () => {
  const { cells, out } = run(
    ...["--shape", "smollm2-135m", "--type", "Q4_0,Q6_K", "--threads", "3", "--only", "wllama231,lowbit"],
    ...[
      "--prompt",
      "64",
      "--context",
      "64,256",
      "--tokens",
      "8",
      "--rounds",
      "7",
      "--limit",
      "9",
      "--out",
      "x.json",
    ],
  );
  expect(cells).toHaveLength(2);
  expect(cells[1]).toMatchObject({
    ...{ shape: "smollm2-135m", type: "Q6_K", threads: 3, engines: ["wllama231", "lowbit"] },
    ...{ prompts: [64], contexts: [64, 256], decodeTokens: 8, rounds: 7, limitMs: 9000 },
  });
  expect(out).toMatch(/x\.json$/);
});

it("in the matrix, --only takes engines away and adds none", () => {
  const { cells } = run("--matrix", "--only", "lowbit,wllama");
  for (const { type, engines } of cells) {
    expect(engines).toContain("lowbit");
    if (type !== "Q4_0") expect(engines).toEqual(["lowbit"]);
  }
});

it("a page is made of the matrix, or of what is named", () => {
  expect(settingsOf(["--report"])).toMatchObject({
    action: "report",
    inputs: [expect.stringMatching(/results\/matrix\.json$/)],
  });
  expect(settingsOf(["--report", "/a.json", "/b.json"])).toEqual({
    action: "report",
    inputs: ["/a.json", "/b.json"],
  });
});

it.each([
  [["--rounds", "0"], /--rounds is "0"/],
  [["--threads", "1,x"], /--threads is "x"/],
  [["--type", "Q9"], /--type: there is no "Q9".*Q4_K_M/],
  [["--shape", "toString"], /--shape: there is no "toString"/],
  [["--only", "ollama"], /there is no "ollama".*node-llama-cpp/],
  [["--quick", "--matrix"], /Only one of/],
  [["--model", "a.gguf", "--type", "Q4_0"], /Only one of/],
  [["more"], /What is "more"/],
  [["--what"], /--what/],
])("refuses %j", (args, message) => {
  expect(() => settingsOf(args)).toThrow(message);
});

it("help names every option", () => {
  expect(settingsOf(["-h"])).toEqual({ action: "help" });
  for (const name of ["quick", "matrix", "shape", "prompt", "limit", "report", "prepare", "minutes"])
    expect(help).toContain(`--${name}`);
});
