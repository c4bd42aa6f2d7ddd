// A packing of one's own, from a converted model to its answer: node main.ts [output folder]
import { picoGguf } from "@lowbit/pico";
import { convert, load } from "lowbit";
import { rows8 } from "./rows8.ts";

const [output = "pico-rows8"] = process.argv.slice(2);
const plugins = [rows8()];

const { totals } = await convert(picoGguf, output, { to: "rows8", plugins, overwrite: true });
console.error(
  `${totals.requantized.tensors} tensors rounded, ${totals.exact.tensors + totals.lossless.tensors} kept`,
);

await using model = await load(output, { plugins });
const { text } = await model.complete({
  messages: [{ role: "user", content: "What is 12 + 7?" }],
  temperature: 0,
});
console.log(text);
