// In a page, and in a worker that the page starts: posts what each says to /report/<place>.
import { conform } from "./conform.ts";

const base = new URL("..", location.href).href.replace(/\/$/, "");
const report = async (place: "page" | "worker", said: unknown): Promise<void> => {
  await fetch(`${base}/report/${place}`, { method: "POST", body: JSON.stringify(said) });
};

const inPage = "document" in globalThis;
if (inPage) {
  const worker = new Worker(new URL("conform-page.js", location.href), { type: "module" });
  worker.onerror = ({ message }) => report("worker", { error: message || "The worker cannot be loaded." });
}
let said: unknown;
try {
  said = await conform({ gguf: `${base}/pico.gguf`, gptq: `${base}/gptq/config.json` });
} catch (error) {
  said = { error: String(error) };
}
await report(inPage ? "page" : "worker", said);
