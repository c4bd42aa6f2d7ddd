import {
  architectures,
  createEngine,
  createTokenizer,
  type FileSet,
  gguf,
  gptq,
  type Model,
  platform,
  safetensors,
  wasm,
} from "lowbit";
import { sha256 } from "./question.ts";

/** What a model says on one build of the kernels. */
export interface Conduct {
  /** Tokens of the answers, greedily. */
  readonly ids: readonly number[];
  readonly texts: readonly string[];
  /** SHA-256 of all logits of a text. */
  readonly logits: string;
  /** Which build that was. */
  readonly build: string;
}

/** By model, then by build: "simd128", plain SIMD; "auto", what the runtime's engine allows; "threads", that on two threads, where there are such. */
export type Conformance = Readonly<
  Record<"gguf" | "gptq", Readonly<Record<"simd128" | "auto", Conduct> & { threads?: Conduct }>>
>;

const prompts = [
  "What is 12 + 7?",
  "Find a route from Brussels to Athens.",
  "Write a short story about a cat.",
];

async function conduct(model: Model): Promise<Conduct> {
  const ids: number[] = [];
  const texts: string[] = [];
  for (const content of prompts) {
    const messages = [{ role: "user" as const, content }];
    const { tokens, text } = await model.complete({ messages, temperature: 0, maxTokens: 48 });
    ids.push(...tokens);
    texts.push(text);
  }
  const logits = await model.forward(model.tokenizer.encode(prompts.join(" ")));
  return { ids, texts, logits: await sha256(logits), build: model.info.backendDescription };
}

/** Runs the same two models everywhere. */
export async function conform(
  locations: Readonly<Record<"gguf" | "gptq", string | FileSet>>,
): Promise<Conformance> {
  const here = platform();
  const one = async (
    location: string | FileSet,
    variant: "simd128" | "auto",
    threads: number,
  ): Promise<Conduct> => {
    const engine = createEngine({
      // Whatever the machine has, two threads are to be tried.
      platform: { ...here, ...(here.threads && { threads: { ...here.threads, processors: 2 } }) },
      backends: [wasm({ variant })],
      plugins: [gguf(), safetensors(), gptq()],
      architectures,
      createTokenizer,
    });
    const model = await engine.load(location, { contextLength: 512, threads });
    const result = await conduct(model);
    await model.dispose();
    return result;
  };
  const both = async (location: string | FileSet) => ({
    simd128: await one(location, "simd128", 1),
    auto: await one(location, "auto", 1),
    ...(here.threads && { threads: await one(location, "auto", 2) }),
  });
  return { gguf: await both(locations.gguf), gptq: await both(locations.gptq) };
}
