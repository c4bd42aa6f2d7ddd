import { Error as errorLevel, parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

/** One bar. */
export interface Bar {
  readonly engine: string;
  /** Of the facet it stands in: across, and down. */
  readonly column: string;
  readonly row: string;
  readonly value: number;
  readonly low: number;
  readonly high: number;
  /** What memory allows at most; absent where it is not what bounds. */
  readonly roof?: number;
}

export interface Chart {
  readonly title: string;
  /** Of the values. */
  readonly unit: string;
  readonly bars: readonly Bar[];
}

/** lowbit in blue, llama.cpp in WebAssembly in orange, native in grey; by place in the list of engines. */
const colours: readonly string[] = ["#1f5fa8", "#5b9bd5", "#d9822b", "#f2bf80", "#8a8a8a"];

/** Charts below each other as one SVG: bars with their range, and a line where memory sets the bound. */
export function svgOf(charts: readonly Chart[], engines: readonly string[]): Promise<string> {
  const spec: TopLevelSpec = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    background: "white",
    vconcat: charts.map(({ title, unit, bars }) => ({
      title: { text: title, anchor: "start", fontSize: 14, offset: 12 },
      data: { values: bars.map((bar) => ({ ...bar })) },
      facet: {
        column: { field: "column", type: "nominal", title: null, sort: null },
        row: { field: "row", type: "nominal", title: null, sort: null },
      },
      spec: {
        width: 190,
        height: { step: 16 },
        encoding: {
          y: { field: "engine", type: "nominal", title: null, sort: [...engines], axis: { labelLimit: 240 } },
        },
        layer: [
          {
            mark: { type: "bar", height: 11 },
            encoding: {
              x: { field: "value", type: "quantitative", title: unit },
              color: {
                field: "engine",
                type: "nominal",
                legend: null,
                scale: { domain: [...engines], range: colours.slice(0, engines.length) },
              },
            },
          },
          {
            mark: { type: "rule", color: "black", opacity: 0.6 },
            encoding: {
              x: { field: "low", type: "quantitative" },
              x2: { field: "high" },
            },
          },
          {
            transform: [{ filter: "isValid(datum.roof)" }],
            mark: { type: "tick", color: "#c00000", thickness: 2, height: 16 },
            encoding: { x: { field: "roof", type: "quantitative" } },
          },
        ],
      },
      resolve: { scale: { x: "independent" } },
    })),
  };
  const { spec: compiled } = compile(spec);
  return new View(parse(compiled), { renderer: "none", logLevel: errorLevel }).toSVG();
}
