// Runs as it is on every runtime with files: `<runtime> answer.ts <location> [cached]`.
import { argv } from "node:process";
import { load, platform } from "lowbit";
import { question } from "./question.ts";

const [location = "", cache] = argv.slice(2);
const model = await load(location, { cache: cache === "cached" });
console.log(JSON.stringify({ runtime: platform().name, ...(await question(model)) }));
await model.dispose();
