import { median } from "./contestant.ts";
import type { Bar, Chart } from "./plot.ts";
import { type CellResult, type EngineResult, type RunResult, type Series, typical } from "./results.ts";
import { figure, ratio, roofline, seriesText } from "./tables.ts";

export interface Page {
  readonly markdown: string;
  readonly charts: readonly Chart[];
  /** Engines as the charts name them, in their order. */
  readonly names: readonly string[];
}

type Titles = Readonly<Record<string, string>>;

/** docs/performance.md and what its plot shows. `titles` names the engines, in the order of their rows. */
export function pageOf(run: RunResult, titles: Titles): Page {
  const cells = withBestBandwidth(run.cells);
  if (cells.length === 0) throw new Error("There are no results to make a page of.");
  const sections = [
    heading(run, cells, titles),
    "![Tokens per second of each engine, and what memory allows](performance.svg)",
    ratios(cells),
    within(cells),
    ...[...new Set(cells.map(({ shape }) => shape))].map((shape) => figures(shape, cells, titles)),
    starts(cells, titles),
    gaps(cells, titles),
  ];
  const order = Object.keys(titles);
  const present = order.filter((name) => cells.some(({ engines }) => engines.some((e) => e.name === name)));
  return {
    markdown: `${sections.filter((text) => text !== "").join("\n\n")}\n`,
    charts: charts(cells, titles),
    names: present.map((name) => titles[name] ?? name),
  };
}

/** Others can only have slowed a measurement down: of a number of threads the best of all cells is what memory gives. */
function withBestBandwidth(cells: readonly CellResult[]): CellResult[] {
  return cells.map((cell) => {
    const same = cells.filter(({ threads }) => threads === cell.threads).map(({ bandwidth }) => bandwidth);
    const best = same.reduce((a, b) => (b.bytesPerSecond > a.bytesPerSecond ? b : a));
    return { ...cell, bandwidth: best };
  });
}

function heading({ machine, command }: RunResult, cells: readonly CellResult[], titles: Titles): string {
  const dates = cells.map(({ date }) => date.slice(0, 10)).sort();
  const versions = new Map(cells.flatMap(({ engines }) => engines.map((e) => [e.name, e] as const)));
  const listed = Object.keys(titles).flatMap((name) => {
    const engine = versions.get(name);
    return engine ? `${titles[name]}: ${engine.version}, ${engine.description}` : [];
  });
  const speeds = new Map(cells.map(({ threads, bandwidth }) => [threads, bandwidth]));
  const memory = [...speeds].map(
    ([threads, { bytesPerSecond }]) => `${(bytesPerSecond / 1e9).toFixed(1)} GB/s on ${counted(threads)}`,
  );
  return `# Performance

Random weights in the shapes of real models, types as llama.cpp's quantizer leaves them; speed says nothing about quality here. All engines ran on the
same file in one run, in turn in each round, each in a process or a Chromium of its own, warmed up before. Figures are medians in tokens per second,
with the range of the rounds in brackets; rounds that began while something else kept the machine busy count only where there are fewer
than three others. "Read" is a prompt of so many tokens, "write at" greedy decoding of ${[...new Set(cells.map((c) => c.decodeTokens))].join(" or ")} tokens behind a context of so many. A number in parentheses is
the length that an engine had instead, because it would have taken too long.

- ${machine.cpu}, ${machine.cores} cores, ${Math.round(machine.memoryBytes / 2 ** 30)} GiB, ${machine.system}, Node.js ${machine.node}
- measured ${dates[0] === dates.at(-1) ? dates[0] : `${dates[0]} to ${dates.at(-1)}`} with \`${command}\`; made by \`npm run bench -- --report\`
- memory is read at ${memory.join(", ")} (${cells[0]?.bandwidth.method})
${listed.map((line) => `- ${line}`).join("\n")}`;
}

interface Pair {
  readonly own: string;
  readonly peer: string;
  readonly title: string;
}

const pairs: readonly Pair[] = [
  { own: "lowbit", peer: "wllama231", title: "Node.js : wllama 2.3.1" },
  { own: "lowbit-chromium", peer: "wllama231", title: "Chromium : wllama 2.3.1" },
  { own: "lowbit-chromium", peer: "wllama", title: "Chromium : current wllama" },
  { own: "lowbit", peer: "node-llama-cpp", title: "Node.js : native" },
];

function ratios(cells: readonly CellResult[]): string {
  const table = (part: "prefill" | "decode", sizes: readonly string[]): string => {
    const rows = cells.flatMap((cell) =>
      sizes.flatMap((size) => {
        const values = pairs.map(({ own, peer }) => {
          const value = ratio(find(cell, own), find(cell, peer), (engine) => engine[part][size]);
          const alike = find(cell, own)?.[part][size]?.tokens === find(cell, peer)?.[part][size]?.tokens;
          return alike || !Number.isFinite(value) ? times(value) : `*${times(value)}*`;
        });
        return values.some((text) => text !== times(Number.NaN)) ? [[...labels(cell), size, ...values]] : [];
      }),
    );
    const what = part === "prefill" ? "tokens read" : "context";
    return markdownTable(["shape", "type", "threads", what, ...pairs.map(({ title }) => title)], rows);
  };
  return `## lowbit's speed as a multiple of the others'

In italics where one of the two had shorter passes.

Decoding:

${table("decode", sizesOf(cells, "decode"))}

Reading prompts:

${table("prefill", sizesOf(cells, "prefill"))}`;
}

/** How near lowbit is to what memory allows, and what contexts and threads cost or bring. */
function within(cells: readonly CellResult[]): string {
  const rows = cells.flatMap((cell) => {
    const contexts = sizesOf([cell], "decode");
    const [shortest, longest] = [contexts[0], contexts.at(-1)];
    const alone = cells.find((c) => c.shape === cell.shape && c.type === cell.type && c.threads === 1);
    return ["lowbit", "lowbit-chromium"].flatMap((name) => {
      const engine = find(cell, name);
      const near = shortest === undefined ? undefined : engine?.decode[shortest];
      if (engine === undefined || shortest === undefined || near === undefined) return [];
      const roof = roofline(cell, Number(shortest));
      const far = longest === undefined || longest === shortest ? undefined : engine.decode[longest];
      const single = cell.threads === 1 ? undefined : alone && find(alone, name);
      const prompts = sizesOf([cell], "prefill").at(-1) ?? "";
      return [
        [
          ...labels(cell),
          name === "lowbit" ? "Node.js" : "Chromium",
          (cell.tokenBytes / 1e6).toFixed(0),
          figure(roof),
          `${((100 * typical(near)) / roof).toFixed(0)} %`,
          far ? `${((100 * typical(far)) / typical(near)).toFixed(0)} % at ${longest}` : "–",
          times(ratio(engine, single, (e) => e.decode[shortest])),
          times(ratio(engine, single, (e) => e.prefill[prompts])),
        ],
      ];
    });
  });
  return `## Against what memory allows

Each token reads all weights and the context's keys and values, here in f16: memory's speed divided by those bytes is the most that decoding can reach.

${markdownTable(
  [
    ...["shape", "type", "threads", "where", "MB a token", "memory allows", "reached"],
    ...["of it at a long context", "decode : 1 thread", "read : 1 thread"],
  ],
  rows,
)}`;
}

function figures(shape: string, cells: readonly CellResult[], titles: Titles): string {
  const own = cells.filter((cell) => cell.shape === shape);
  const prompts = sizesOf(own, "prefill");
  const contexts = sizesOf(own, "decode");
  const rows = own.flatMap((cell) =>
    ordered(cell, titles).map((engine) => [
      cell.type,
      String(cell.threads),
      titles[engine.name] ?? engine.name,
      rounds(engine),
      ...prompts.map((size) => seriesText(engine.prefill[size], size)),
      ...contexts.map((size) => seriesText(engine.decode[size], size)),
      ...prompts.slice(-1).map((size) => milliseconds(engine.firstTokenMs[size])),
    ]),
  );
  const head = [
    ...["type", "threads", "engine", "rounds"],
    ...prompts.map((size) => `read ${size}`),
    ...contexts.map((size) => `write at ${size}`),
    ...prompts.slice(-1).map((size) => `first token after ${size}, ms`),
  ];
  return `## ${shape === "" ? "The model" : shape}\n\n${markdownTable(head, rows)}`;
}

function starts(cells: readonly CellResult[], titles: Titles): string {
  const rows = cells
    .filter(({ threads }) => threads === Math.min(...cells.map((cell) => cell.threads)))
    .flatMap((cell) =>
      ordered(cell, titles).map((engine) => [
        cell.shape,
        cell.type,
        titles[engine.name] ?? engine.name,
        String(engine.loadMs.length),
        milliseconds(engine.loadMs),
        milliseconds(engine.openToFirstTokenMs),
        engine.peakMemoryBytes === undefined ? "–" : (engine.peakMemoryBytes / 1e6).toFixed(0),
        (cell.fileBytes / 1e6).toFixed(0),
        engine.downloadBytes === undefined ? "–" : (engine.downloadBytes / 1e3).toFixed(0),
      ]),
    );
  const head = [
    ...["shape", "type", "engine", "starts", "load, ms", "open to first token, ms"],
    ...["peak MB", "file MB", "download, kB"],
  ];
  return `## Start, memory, download

Load is from an open file to a model that can run, "open to first token" from there to the first token after a prompt of eight; pages have fetched
the files before. Peak is the largest resident set of any one process of the engine, at the end of all measurements. Download is what a page fetched to run the engine,
scripts and modules, gzipped.

${markdownTable(head, rows)}`;
}

function gaps(cells: readonly CellResult[], titles: Titles): string {
  const lines = cells.flatMap((cell) => [
    ...Object.entries(cell.absent).map(([name, why]) => ({ cell, what: titles[name] ?? name, why })),
    ...cell.engines.flatMap(({ name, omitted }) =>
      Object.entries(omitted).map(([what, why]) => ({ cell, what: `${titles[name] ?? name}, ${what}`, why })),
    ),
  ]);
  const rows = lines.map(({ cell, what, why }) => [...labels(cell), what, why]);
  if (rows.length === 0) return "";
  return `## Not measured\n\n${markdownTable(["shape", "type", "threads", "what", "why"], rows)}`;
}

/** The main shape, which comes first, with all engines; types side by side, threads below each other. */
function charts(cells: readonly CellResult[], titles: Titles): Chart[] {
  const shape = cells[0]?.shape ?? "";
  const own = cells.filter((cell) => cell.shape === shape && cell.absent.wllama231 === undefined);
  const chart = (title: string, part: "prefill" | "decode", size: string | undefined): Chart[] => {
    if (size === undefined) return [];
    const bars = own.flatMap((cell) =>
      ordered(cell, titles).flatMap((engine): Bar[] => {
        const series: Series | undefined = engine[part][size];
        if (series === undefined) return [];
        return [
          {
            engine: titles[engine.name] ?? engine.name,
            column: cell.type,
            row: counted(cell.threads),
            value: typical(series),
            low: Math.min(...series.samples),
            high: Math.max(...series.samples),
            ...(part === "decode" && { roof: roofline(cell, Number(size)) }),
          },
        ];
      }),
    );
    return bars.length === 0 ? [] : [{ title, unit: "tokens/s", bars }];
  };
  const context = sizesOf(own, "decode")[0];
  const prompt = sizesOf(own, "prefill").at(-1);
  return [
    ...chart(`${shape}, decoding at a context of ${context}; red: what memory allows`, "decode", context),
    ...chart(`${shape}, reading a prompt of ${prompt}`, "prefill", prompt),
  ];
}

/** "5", or "2 to 5" where some measurements had fewer. */
function rounds({ prefill, decode }: EngineResult): string {
  const all = [...Object.values(prefill), ...Object.values(decode)].map(({ samples }) => samples.length);
  if (all.length === 0) return "–";
  const [least, most] = [Math.min(...all), Math.max(...all)];
  return least === most ? String(most) : `${least} to ${most}`;
}

function find(cell: CellResult, name: string): EngineResult | undefined {
  return cell.engines.find((engine) => engine.name === name);
}

function ordered(cell: CellResult, titles: Titles): EngineResult[] {
  return Object.keys(titles).flatMap((name) => find(cell, name) ?? []);
}

function sizesOf(cells: readonly CellResult[], part: "prefill" | "decode"): string[] {
  const sizes = cells.flatMap(({ engines }) => engines.flatMap((engine) => Object.keys(engine[part])));
  return [...new Set(sizes)].sort((a, b) => Number(a) - Number(b));
}

function labels({ shape, type, threads }: CellResult): string[] {
  return [shape, type, String(threads)];
}

function counted(threads: number): string {
  return threads === 1 ? "1 thread" : `${threads} threads`;
}

function times(value: number): string {
  return Number.isFinite(value) ? `${value.toFixed(2)}×` : "–";
}

function milliseconds(values: readonly number[] | undefined): string {
  if (values === undefined || values.length === 0) return "–";
  const range = `[${Math.round(Math.min(...values))}–${Math.round(Math.max(...values))}]`;
  return `${Math.round(median(values))}${values.length > 1 ? ` ${range}` : ""}`;
}

function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (row: readonly string[]): string =>
    `| ${row.map((text) => text.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(head), `|${head.map(() => "---").join("|")}|`, ...rows.map(line)].join("\n");
}
