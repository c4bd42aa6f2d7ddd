import { Command } from "commander";
import { describe, expect, it } from "vitest";
import { addLoadOptions, addSamplingOptions, type SamplingFlags, samplingOf } from "./options.ts";

function parse(...args: string[]): SamplingFlags {
  const command = addLoadOptions(addSamplingOptions(new Command())).exitOverride();
  command.configureOutput({ writeErr: () => {} });
  return command.parse(args, { from: "user" }).opts();
}

describe("sampling options", () => {
  it("reach the engine as given, and only those given", () => {
    expect(samplingOf(parse())).toEqual({});
    const flags = parse(
      "--temperature=0.5",
      ..."--top-k 0 --top-p 1 --min-p 0 --typical-p 0.9 --seed 7 -n 12 --repetition-penalty 1.1".split(" "),
      ..."--presence-penalty -0.5 --frequency-penalty 0.25 --penalty-window -1".split(" "),
      ..."--logit-bias 3=-2.5 --logit-bias 4=1 --stop a --stop b".split(" "),
    );
    expect(samplingOf(flags)).toEqual({
      temperature: 0.5,
      topK: 0,
      topP: 1,
      minP: 0,
      typicalP: 0.9,
      seed: 7,
      maxTokens: 12,
      repetitionPenalty: 1.1,
      presencePenalty: -0.5,
      frequencyPenalty: 0.25,
      penaltyWindow: -1,
      logitBias: { 3: -2.5, 4: 1 },
      stop: ["a", "b"],
    });
  });

  it.each([
    ["--temperature", "warm"],
    ["--temperature", ""],
    ["--temperature", "Infinity"],
    ["--temperature"],
    ["--top-k", "1.5"],
    ["--max-tokens", "0"],
    ["--seed", "1e99"],
    ["--logit-bias", "a=1"],
    ["--logit-bias", "1"],
    ["--backend", "cuda"],
    ["--kv", "q4"],
    ["--context", "-5"],
    ["--temprature", "1"],
  ])("refuse %s %s", (...args) => {
    expect(() => parse(...args)).toThrow(/option|argument/);
  });
});
