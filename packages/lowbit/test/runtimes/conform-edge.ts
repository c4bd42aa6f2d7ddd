// What a handler on Vercel's edge runtime does.
import { conform } from "./conform.ts";

/** As JSON: what crosses the border of two realms keeps its prototypes. */
export async function run(base: string): Promise<string> {
  return JSON.stringify(await conform({ gguf: `${base}/pico.gguf`, gptq: `${base}/gptq/config.json` }));
}
