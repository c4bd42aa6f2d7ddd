// A Worker that conforms with models of a bucket where it has one, else with those of a server: `/?base=<URL>`.
import { r2Files } from "lowbit";
import { conform } from "./conform.ts";

interface Env {
  readonly MODELS?: Parameters<typeof r2Files>[0];
}

export default {
  async fetch(request: Request, { MODELS }: Env): Promise<Response> {
    const base = new URL(request.url).searchParams.get("base") ?? "";
    const locations = MODELS
      ? { gguf: r2Files(MODELS, "pico.gguf"), gptq: r2Files(MODELS, "gptq/") }
      : { gguf: `${base}/pico.gguf`, gptq: `${base}/gptq/config.json` };
    try {
      return Response.json(await conform(locations));
    } catch (error) {
      return Response.json({ error: String(error) }, { status: 500 });
    }
  },
};
