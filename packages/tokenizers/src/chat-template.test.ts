import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import { type ChatMessage, LowbitError } from "@lowbit/core";
import { describeWithData, testData } from "@lowbit/testing";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { chatTemplate } from "./chat-template.ts";

const chatml = `{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;

const llama3 = `{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>

' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>

' }}{% endif %}`;

const gemma = `{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model
' }}{% endif %}`;

const mistral = `{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}`;

const qwen25 = `{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}`;

const tokens = { bos: "<bos>", eos: "<eos>" };
const system: ChatMessage = { role: "system", content: "Be brief." };
const turns: ChatMessage[] = [
  { role: "user", content: " Hello " },
  { role: "assistant", content: " Hi. " },
  { role: "user", content: "Bye" },
];
const weather = { type: "function", function: { name: "weather", parameters: { type: "object" } } };

function failure(source: string, messages: readonly ChatMessage[] = turns): LowbitError {
  try {
    chatTemplate(source, tokens)(messages);
  } catch (error) {
    if (LowbitError.is(error)) return error;
    throw error;
  }
  throw new Error("the template did not fail");
}

describe("templates in the shapes of well-known families", () => {
  it("ChatML, with and without the assistant's header", () => {
    const text =
      "<|im_start|>user\n Hello <|im_end|>\n<|im_start|>assistant\n Hi. <|im_end|>\n<|im_start|>user\nBye<|im_end|>\n";
    expect(chatTemplate(chatml)(turns)).toBe(`${text}<|im_start|>assistant\n`);
    expect(chatTemplate(chatml)(turns, { addGenerationPrompt: false })).toBe(text);
  });

  it("Llama 3: begin token before the first turn, contents trimmed", () => {
    expect(chatTemplate(llama3, { bos: "<|begin_of_text|>" })([system, ...turns.slice(0, 1)])).toBe(
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>" +
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    );
  });

  it("Gemma: the assistant is called model, and a system message is refused in the template's words", () => {
    expect(chatTemplate(gemma, tokens)(turns)).toBe(
      "<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi.<end_of_turn>\n" +
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
    );
    const refused = failure(gemma, [system, ...turns]);
    expect(refused).toMatchObject({ code: "bad-argument", reason: "template-raised" });
    expect(refused.message).toContain("System role not supported");
  });

  it("Mistral: the system message goes to the last user turn", () => {
    expect(chatTemplate(mistral, tokens)([system, ...turns])).toBe(
      "<bos>[INST]  Hello [/INST] Hi.<eos>[INST] Be brief.\n\nBye[/INST]",
    );
  });

  it("Qwen 2.5: tools, calls and consecutive tool results", () => {
    const messages: ChatMessage[] = [
      system,
      { role: "user", content: "Rain?" },
      {
        role: "assistant",
        content: "",
        tool_calls: [{ function: { name: "weather", arguments: { city: "Ü" } } }],
      },
      { role: "tool", content: "yes" },
      { role: "tool", content: "no" },
    ];
    expect(chatTemplate(qwen25)(messages, { tools: [weather] })).toBe(
      "<|im_start|>system\nBe brief.\n\n# Tools\n\n<tools>\n" +
        '{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}\n</tools><|im_end|>\n' +
        "<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n" +
        '{"name": "weather", "arguments": {"city": "Ü"}}\n</tool_call><|im_end|>\n' +
        "<|im_start|>user\n<tool_response>\nyes\n</tool_response>\n<tool_response>\nno\n</tool_response><|im_end|>\n" +
        "<|im_start|>assistant\n",
    );
  });
});

describeWithData("pico's chat template", ["models/pico/hf/tokenizer_config.json", "models/pico/eval"], () => {
  it("renders every evaluation item as its reference prompt", () => {
    const folder = testData("models/pico/eval") as string;
    const config = JSON.parse(
      readFileSync(testData("models/pico/hf/tokenizer_config.json") as string, "utf8"),
    ) as { chat_template: string; eos_token: string };
    const render = chatTemplate(config.chat_template, { eos: config.eos_token });
    let items = 0;
    for (const file of readdirSync(folder))
      for (const line of readFileSync(join(folder, file), "utf8").trim().split("\n")) {
        const item = JSON.parse(line) as { messages?: ChatMessage[]; tools?: unknown[]; prompt: string };
        if (item.messages === undefined) continue;
        expect(render(item.messages, item.tools ? { tools: item.tools } : {})).toBe(item.prompt);
        items++;
      }
    expect(items).toBe(2200);
  });
});

const anyText = fc.oneof(
  fc.string({ unit: "binary" }),
  fc
    .array(
      fc.constantFrom(
        "{{ 7*7 }}",
        "{% for x in y %}",
        "{#",
        "%}",
        "'",
        "\\n",
        "<|im_end|>",
        "\n",
        "é",
        "\ud800",
      ),
    )
    .map((parts) => parts.join("")),
);
const anyMessages = fc.array(
  fc.record({ role: fc.constantFrom("user", "assistant", "tool"), content: anyText }),
  {
    minLength: 1,
    maxLength: 6,
  },
);

describe("contents", () => {
  it("arrive verbatim, whatever they hold", () => {
    const render = chatTemplate(chatml);
    fc.assert(
      fc.property(anyMessages, (messages) => {
        const expected = messages.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`);
        expect(render(messages)).toBe(`${expected.join("")}<|im_start|>assistant\n`);
      }),
      { numRuns: 500 },
    );
  });
});

describe("the budgeted interpreter", () => {
  const snippets = [
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content | upper }}{% else %}none{% endfor %}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v | tojson(indent=2) }};{% endfor %}",
    "{% macro m(a, b='x') %}{{ a ~ b }}{{ varargs | length }}{% endmacro %}{{ m(1) }}{{ m('é', b=2) }}{{ m(*[1, 2, 3]) }}",
    "{% macro w() %}<{{ caller('in') }}>{% endmacro %}{% call(t) w() %}{{ t }}{{ messages | length }}{% endcall %}",
    "{% filter upper %}{% for m in messages %}{{ m.role }}{% endfor %}{% endfilter %}",
    "{% set ns = namespace(n=0, l=[]) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.l = ns.l + [m.role] %}{% endfor %}{{ ns.n }}{{ ns.l | join(', ') }}{{ ns.l }}",
    "{% set text %}{% for m in messages %}{{ m.content[:2] }}|{% endfor %}{% endset %}{{ text.split('|') | length }}{{ text | replace('|', '-') }}",
    "{{ messages | map(attribute='role') | unique | sort | join('.') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages[::-1] | first | tojson }}{{ (messages | last).role.title() }}{{ messages[-1:] | length }}",
    "{% for i in range(3, 0, -1) %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{{ 7 // i }}{{ 7 % i }}{% endfor %}",
    "{{ 'a' in messages[0].content }}{{ 'user' in (messages | map(attribute='role') | list) }}{{ [1, 'x'] == 'x' }}{{ nope is defined }}{{ nope }}",
    "{{ {'b': 1, 'a': [true, none, 1.5]} | dictsort }}{{ {'a': 1} | items }}{{ 'x\\ny' | indent(2, true) }}{{ 'ab' | join('-') }}",
    "{{ messages[0].content.startswith(('{', 'x')) }}{{ messages[0].get('name', 'anon') }}{{ '3' | int + 1 }}{{ x | default('d') }}",
    chatml,
    qwen25,
  ];

  it.each(snippets)("renders as the library does on its own: %s", (source) => {
    const plain = new Template(source) as { render(variables: Record<string, unknown>): string };
    const render = chatTemplate(source);
    fc.assert(
      fc.property(anyMessages, (messages) => {
        const expected = plain.render({ messages, tools: null, add_generation_prompt: true });
        expect(render(messages)).toBe(expected);
      }),
      { numRuns: 40 },
    );
  });

  it("calls the method of a mapping that has a property of the same name, as Jinja does", () => {
    const source =
      "{% for k, v in messages[0].p.items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0].p['items'] }}";
    expect(chatTemplate(source)([{ role: "user", content: "", p: { items: 1, get: 2 } }])).toBe(
      "items=1;get=2;1",
    );
  });
});

describe("what a template sees", () => {
  it("special tokens, empty where the vocabulary has none, and variables over them", () => {
    const source =
      "[{{ bos_token }}][{{ eos_token }}][{{ unk_token }}][{{ pad_token is defined }}][{{ date }}]";
    expect(chatTemplate(source)(turns)).toBe("[][][][false][]");
    expect(chatTemplate(source, { ...tokens, unknown: "<unk>", padding: "<pad>" })(turns)).toBe(
      "[<bos>][<eos>][<unk>][true][]",
    );
    expect(chatTemplate(source, tokens)(turns, { variables: { bos_token: "B", date: "today" } })).toBe(
      "[B][<eos>][][false][today]",
    );
  });

  it("no tools as none", () => {
    const render = chatTemplate("{{ tools is defined }}{{ tools is none }}{{ documents is none }}");
    expect(render(turns)).toBe("truetruetrue");
    expect(render(turns, { tools: [weather] })).toBe("truefalsetrue");
  });

  it("the time that the caller gives, in UTC", () => {
    const source = "{{ strftime_now('%d %b %Y, %A %B %H:%M:%S %j %I%p %a %y %% %Q') }}";
    expect(chatTemplate(source)(turns, { now: new Date(Date.UTC(2024, 2, 5, 23, 4, 9)) })).toBe(
      "05 Mar 2024, Tuesday March 23:04:09 065 11PM Tue 24 % %Q",
    );
    const year = Number(chatTemplate("{{ strftime_now('%Y') }}")(turns));
    expect(Math.abs(year - new Date().getUTCFullYear())).toBeLessThanOrEqual(1);
  });
});

describe("failures", () => {
  it.each([
    ["{% if x %}", "ends inside"],
    ["{{ 'x }}", "end of input"],
    ["{% nonsense %}", "nonsense"],
    ["{{ x", ""],
  ])("a template that does not parse: %s", (source, words) => {
    expect(failure(source)).toMatchObject({ code: "bad-argument", reason: "template-syntax" });
    expect(failure(source).message).toContain(words);
  });

  it.each([
    ["{{ messages | nonsense }}", "nonsense"],
    ["{{ nope + 'x' }}", "undefined"],
    ["{{ nope() }}", "not a function"],
    ["{{ range(1.5) }}", "whole numbers"],
    ["{{ range }}", "function cannot be printed"],
    ["{{ 'a' | indent(-1) }}", "negative"],
    ["{% break %}", "failed"],
  ])("a template that fails: %s", (source, words) => {
    expect(failure(source)).toMatchObject({ code: "bad-argument", reason: "template-failed" });
    expect(failure(source).message).toContain(words);
  });

  it("a refusal's words come without control characters, shortened", () => {
    const error = failure("{{ raise_exception('a\\x1b[2J' ~ 'b' ~ range(2000) | join) }}");
    expect(error.reason).toBe("template-raised");
    expect(error.message).toContain("a\uFFFD[2Jb012");
    expect(error.message.length).toBeLessThan(600);
  });

  it("input that is not plain data", () => {
    const render = chatTemplate(chatml) as (...args: unknown[]) => string;
    const loop: Record<string, unknown> = { role: "user", content: "" };
    loop.self = loop;
    const bad: unknown[][] = [
      ["hello"],
      [[null]],
      [[{ content: "no role" }]],
      [[loop]],
      [turns, { tools: [() => 1] }],
      [turns, { variables: { big: 1n } }],
      [turns, { variables: { map: new Map() } }],
      [turns, { variables: { messages: [] } }],
      [turns, { variables: { namespace: 1 } }],
      [turns, { now: new Date(Number.NaN) }],
    ];
    for (const args of bad)
      expect(() => render(...args)).toThrow(expect.objectContaining({ reason: "template-input" }));
  });
});
