// In a page, and in a worker that the page starts: posts what each says to /report/<place>.
import { conform } from "./conform.ts";

const base = new URL("..", location.href).href.replace(/\/$/, "");
const inPage = "document" in globalThis;
if (inPage) new Worker(new URL("conform-page.js", location.href), { type: "module" });
let report: unknown;
try {
  report = await conform({ gguf: `${base}/pico.gguf`, gptq: `${base}/gptq/config.json` });
} catch (error) {
  report = { error: String(error) };
}
await fetch(`${base}/report/${inPage ? "page" : "worker"}`, { method: "POST", body: JSON.stringify(report) });
