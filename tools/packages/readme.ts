/** The README's snippet, put where each runtime and bundler wants it. The snippet's own lines are never changed. */
import { runnableSnippets } from "../snippets.ts";

/** The first runnable snippet of a README. */
export function firstSnippet(path: string, markdown: string): string {
  const [first] = runnableSnippets(path, markdown);
  if (first === undefined) throw new Error(`${path} has no snippet marked "ts runnable".`);
  return first.code;
}

/** Tells, after all else, which platform the exports conditions led to, and that the kernels were found: without them it runs, slowly. */
const platformImport = 'import { platform as foundPlatform } from "lowbit";';
// biome-ignore lint/suspicious/noTemplateCurlyInString: the template is the program's.
const platformLine = "console.log(`${foundPlatform().name} ${model.info.backend}`);";

/** A script, or the module of a web page. */
export function asScript(snippet: string): string {
  return `${snippet}\n${platformImport}\n${platformLine}\n`;
}

/**
 * A Worker that answers a request with what the snippet logs: a Worker may do nothing but define things outside of a request, so all
 * but the imports goes into its handler.
 */
export function asWorker(snippet: string): string {
  const lines = snippet.split("\n");
  const imports = lines.filter((line) => line.startsWith("import "));
  if (imports.some((line) => !/ from "[^"]+";/.test(line)))
    throw new Error("The README's snippet has an import of several lines; keep each on its own.");
  const body = lines.filter((line) => !line.startsWith("import "));
  return `${imports.join("\n")}
${platformImport}
export default {
  async fetch(): Promise<Response> {
    const logged: string[] = [];
    const console = { log: (text: string): number => logged.push(text) };
    ${[...body, platformLine].join("\n    ").trim()}
    return Response.json(logged);
  },
};
`;
}

/** A page that runs page.ts and posts all that was logged, or went wrong, to the address in its query. */
export const page = `<!doctype html>
<meta charset="utf-8">
<title>lowbit</title>
<script>
  const address = new URLSearchParams(location.search).get("report");
  const logged = [];
  const report = (fields) => address && fetch(address, { method: "POST", mode: "no-cors", body: JSON.stringify(fields) });
  console.log = (text) => {
    logged.push(text);
    report({ logged });
  };
  addEventListener("error", (event) => report({ error: event.message || event.target.src + " cannot be loaded" }), true);
  addEventListener("unhandledrejection", (event) => report({ error: String(event.reason) }));
</script>
<script type="module" src="/page.ts"></script>
`;
