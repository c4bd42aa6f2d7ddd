// A Worker that answers from each kind of storage: /r2/<key>, /kv/<prefix>, /assets/<prefix>, /http/<url>.
import { assetFiles, type FileSet, kvFiles, load, platform, r2Files } from "lowbit";
import { question } from "./question.ts";

interface Env {
  MODELS: Parameters<typeof r2Files>[0];
  PIECES: Parameters<typeof kvFiles>[0];
  ASSETS: Parameters<typeof assetFiles>[0];
}

function filesOf(kind: string, rest: string, env: Env): FileSet | string {
  if (kind === "r2") return r2Files(env.MODELS, rest);
  if (kind === "kv") return kvFiles(env.PIECES, rest);
  if (kind === "assets") return assetFiles(env.ASSETS, `/${rest}`);
  return decodeURIComponent(rest);
}

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    try {
      const { pathname, search } = new URL(request.url);
      const [, kind = "", rest = ""] = /^\/([^/]+)\/(.*)$/.exec(pathname) ?? [];
      const model = await load(filesOf(kind, rest, env), { cache: kind === "http" && search === "" });
      const answer = {
        runtime: platform().name,
        limit: platform().memoryLimitBytes,
        ...(await question(model)),
      };
      await model.dispose();
      return Response.json(answer);
    } catch (error) {
      return Response.json({ error: String(error) }, { status: 500 });
    }
  },
};
