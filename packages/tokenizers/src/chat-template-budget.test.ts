import { spawnSync } from "node:child_process";
import { describe, expect, it } from "vitest";
import { chatTemplate } from "./chat-template.ts";

const doubled = (times: number, start = "'x'"): string =>
  `{% set ns = namespace(s=${start}, l=[]) %}{% for i in range(${times}) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}`;
// Sixty levels, each of which holds the one below twice: 2^60 leaves, 120 references.
const nestedLists =
  "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}";

/** Templates that would run for minutes to aeons, or fill the memory; each must stop at the budget. */
const bombs: Record<string, string> = {
  "4 M nested iterations": "{% for i in range(2000) %}{% for j in range(2000) %}{% endfor %}{% endfor %}",
  "nested iterations that write":
    "{% for i in range(2000) %}{% for j in range(2000) %}x{% endfor %}{% endfor %}",
  "a long range": "{% for i in range(10**9) %}x{% endfor %}",
  "a range printed": "{{ range(10**15) | join }}",
  "a string doubled": `${doubled(60)}{{ ns.s }}`,
  "a string doubled with +":
    "{% set ns=namespace(s='x') %}{% for i in range(60) %}{% set ns.s=ns.s+ns.s %}{% endfor %}",
  "a list doubled":
    "{% set ns=namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s=ns.s+ns.s %}{% endfor %}",
  "nested lists as JSON": `${nestedLists}{{ ns.s | tojson }}`,
  "nested lists put out": `${nestedLists}{{ ns.s }}`,
  "nested lists concatenated": `${nestedLists}{{ '' ~ ns.s }}`,
  "nested lists compared": `${nestedLists}{{ 'x' == ns.s }}`,
  "nested lists joined": `${nestedLists}{{ ns.s | join }}`,
  "nested lists as a string": `${nestedLists}{{ ns.s | string }}`,
  "a namespace in itself": "{% set ns = namespace() %}{% set ns.s = [ns, ns] %}{{ ns | tojson }}",
  "a list nested deep":
    "{% set ns=namespace(s=1) %}{% for i in range(9000) %}{% set ns.s=[ns.s] %}{% endfor %}{{ ns.s }}",
  "a chain that grows":
    "{% set ns=namespace(s=1) %}{% for i in range(30000) %}{% set ns.s=[ns.s, loop] %}{% endfor %}",
  "mappings that pile up": `{% set ns=namespace(l=[]) %}{% for i in range(30000) %}{% set ns.l=[ns.l${", {}".repeat(20)}] %}{% endfor %}`,
  "flattened strings that pile up": `${doubled(19)}{% for i in range(5000) %}{% set t = ns.s ~ i %}{{ t[0] }}{% set ns.l = [ns.l, t] %}{% endfor %}`,
  "endless recursion": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
  "branching recursion":
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
  "a wide indent": "{{ 'a\\nb' | indent(10**9) }}",
  "a wide JSON indent": "{{ [[[1]]] | tojson(indent=10**8) }}",
  "a long separator": `${doubled(20)}{{ range(1000) | join(ns.s) }}`,
  "a JSON separator": `${doubled(20)}{{ range(1000) | tojson(separators=[ns.s, ns.s]) }}`,
  "replacement by the whole": `${doubled(16)}{{ ns.s.replace('x', ns.s) }}`,
  "replacement by a filter": `${doubled(16)}{{ ns.s | replace('x', ns.s) }}`,
  "replacement of nothing, by a stored method": `${doubled(16)}{% set f = ns.s.replace %}{{ f('', ns.s) }}`,
  "splitting into characters": `${doubled(20)}{{ ns.s.split('x') | length }}{{ ns.s.split('x') | length }}`,
  "reversing a long string": `${doubled(21, "'é'")}{{ ns.s[::-1] }}`,
  "a search of quadratic cost": `${doubled(18)}{% set t = ns.s[:999] ~ 'b' %}{% for i in range(9000) %}{{ t in ns.s }}{% endfor %}`,
  "a stored method in a loop": `${doubled(21)}{% set f = ns.s.strip %}{% for i in range(9999) %}{% set _ = f() %}{% endfor %}`,
  "sorting in a loop": "{% for i in range(1000) %}{{ range(20000) | sort | length }}{% endfor %}",
  "a list searched in a loop":
    "{% set l = range(20000) %}{% for i in range(20000) %}{{ i in l }}{% endfor %}",
  "a large macro defined in a loop": `{% for i in range(9999) %}{% macro m() %}${"{{ 1 }}".repeat(9000)}{% endmacro %}{% endfor %}`,
  "unknown names": `{% for i in range(9999) %}${"{{ nope }}".repeat(1000)}{% endfor %}`,
  "deep parentheses": `{{ ${"(".repeat(60_000)}1${")".repeat(60_000)} }}`,
  "a deep sum": `{{ 1${" + 1".repeat(30_000)} }}`,
  "deep blocks": "{% if 1 %}".repeat(12_000),
  "long white space": `${" ".repeat(100_000)}x`,
  "a long source": "x".repeat(300_000),
};

describe("template bombs", () => {
  it("each end in template-budget within a second of processor time, in a heap of 64 MiB", () => {
    const script = `
      import { readFileSync } from "node:fs";
      const { chatTemplate } = await import(${JSON.stringify(new URL("./chat-template.ts", import.meta.url).href)});
      const results = {};
      for (const [name, source] of Object.entries(JSON.parse(readFileSync(0, "utf8")))) {
        const start = process.cpuUsage();
        let reason = "rendered";
        try { chatTemplate(source)([{ role: "user", content: "hi" }]); } catch (error) { reason = error.reason ?? String(error); }
        results[name] = { reason, seconds: process.cpuUsage(start).user / 1e6 };
      }
      console.log(JSON.stringify(results));`;
    const flags = ["--max-old-space-size=64", "--no-warnings", "--input-type=module", "-e", script];
    const child = spawnSync(process.execPath, flags, { input: JSON.stringify(bombs), encoding: "utf8" });
    // A heap that overflows kills the process: no output, and the reason on stderr.
    expect(child.stderr).toBe("");
    const results = JSON.parse(child.stdout) as Record<string, { reason: string; seconds: number }>;
    expect(Object.keys(results)).toEqual(Object.keys(bombs));
    for (const [name, { reason, seconds }] of Object.entries(results)) {
      expect(`${name}: ${reason}`).toBe(`${name}: template-budget`);
      expect(seconds, name).toBeLessThan(1);
    }
  });

  it("multiplication of a string and huge integers end at once", () => {
    const messages = [{ role: "user", content: "hi" }];
    expect(() => chatTemplate("{{ 'x' * 10**9 }}")(messages)).toThrow(/operator/);
    expect(() => chatTemplate("{{ 9**999 }}")(messages)).toThrow(/finite/);
    expect(chatTemplate(`{{ ${"9".repeat(100_000)} }}`)(messages)).toBe("Infinity");
  });
});

describe("long conversations", () => {
  const messages = Array.from({ length: 1000 }, (_, index) => ({
    role: index % 2 === 0 ? "user" : "assistant",
    content: `${index}</think>${"é".repeat(10_000)}`,
  }));

  it("1,000 messages of 10 kB pass through a template that picks each apart", () => {
    const source = `{%- for m in messages[::-1] %}{% set seen = m.content is string and m.content.startswith('<x>') %}{% endfor %}
{%- for m in messages %}{%- set content = m.content %}
{%- if '</think>' in content %}{%- set thought = content.split('</think>')[0].strip() %}{%- set content = content.split('</think>')[-1].lstrip() %}{%- endif %}
{{- '<' + m.role + '>' + thought + ':' + content | trim + '\\n' }}{% endfor %}`;
    const text = chatTemplate(source)(messages);
    expect(text.length).toBeGreaterThan(10_000_000);
    expect(text.startsWith(`<user>0:é`)).toBe(true);
    expect(text.endsWith("é\n")).toBe(true);
  });

  it("and one that gathers them in a namespace", () => {
    const source =
      "{% set ns = namespace(s='', l=[]) %}{% for m in messages %}{% set ns.s = ns.s + m.content %}{% set ns.l = ns.l + [m] %}{% endfor %}{{ ns.l | length }}{{ ns.s }}";
    expect(chatTemplate(source)(messages)).toBe(`1000${messages.map((message) => message.content).join("")}`);
  });
});
