// `<runtime> conform-script.ts <gguf> <gptq>`
import { argv } from "node:process";
import { conform } from "./conform.ts";

const [gguf = "", gptq = ""] = argv.slice(2);
console.log(JSON.stringify(await conform({ gguf, gptq })));
