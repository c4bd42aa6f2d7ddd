// What a handler on Vercel's edge runtime does.
import { load, platform } from "lowbit";
import { question } from "./question.ts";

/** As JSON: what crosses the border of two realms keeps its prototypes. */
export async function answer(location: string): Promise<string> {
  const model = await load(location);
  const result = { runtime: platform().name, limit: platform().memoryLimitBytes, ...(await question(model)) };
  await model.dispose();
  return JSON.stringify(result);
}
