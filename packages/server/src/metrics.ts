/** Counters and histograms in the text format of Prometheus. */
export interface Metrics {
  /** A request has been answered, or given up. */
  request(route: string, status: number, seconds: number): void;
  firstToken(seconds: number): void;
  prompt(tokens: number, cached: number): void;
  token(): void;
  /** `gauges` are read now. */
  text(gauges: readonly Gauge[]): string;
}

export interface Gauge {
  readonly name: string;
  readonly help: string;
  readonly values: readonly { readonly labels?: Readonly<Record<string, string>>; readonly value: number }[];
}

const buckets = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];
/** Speed is that of the last so many seconds. */
const windowSeconds = 10;

interface Histogram {
  readonly counts: number[];
  sum: number;
}

export function createMetrics(): Metrics {
  const requests = new Map<string, number>();
  const duration: Histogram = { counts: new Array(buckets.length + 1).fill(0), sum: 0 };
  const first: Histogram = { counts: new Array(buckets.length + 1).fill(0), sum: 0 };
  const totals = { prompt: 0, cached: 0, completion: 0 };
  /** Tokens of each of the last seconds. */
  const recent = new Map<number, number>();
  const second = (): number => Math.floor(performance.now() / 1000);

  const speed = (): number => {
    const now = second();
    let sum = 0;
    for (const [at, count] of recent) if (at < now && at >= now - windowSeconds) sum += count;
    return sum / windowSeconds;
  };

  return {
    request(route, status, seconds) {
      const key = `{route="${route}",status="${status}"}`;
      requests.set(key, (requests.get(key) ?? 0) + 1);
      observe(duration, seconds);
    },
    firstToken: (seconds) => observe(first, seconds),
    prompt(tokens, cached) {
      totals.prompt += tokens;
      totals.cached += cached;
    },
    token() {
      totals.completion++;
      const now = second();
      recent.set(now, (recent.get(now) ?? 0) + 1);
      for (const at of recent.keys()) if (at < now - windowSeconds) recent.delete(at);
    },
    text(gauges) {
      const lines: string[] = [];
      const add = (
        name: string,
        kind: string,
        help: string,
        values: readonly (readonly [string, number])[],
      ) => {
        lines.push(`# HELP lowbit_${name} ${help}`, `# TYPE lowbit_${name} ${kind}`);
        for (const [suffix, value] of values) lines.push(`lowbit_${name}${suffix} ${value}`);
      };
      add("requests_total", "counter", "Requests by route and status.", [...requests]);
      add("prompt_tokens_total", "counter", "Tokens of prompts.", [["", totals.prompt]]);
      add("cached_tokens_total", "counter", "Of those, taken from the cache.", [["", totals.cached]]);
      add("completion_tokens_total", "counter", "Tokens written.", [["", totals.completion]]);
      add("tokens_per_second", "gauge", `Tokens written, over the last ${windowSeconds} seconds.`, [
        ["", speed()],
      ]);
      add("request_seconds", "histogram", "From a request to the end of its answer.", histogram(duration));
      add("first_token_seconds", "histogram", "From a request to its first token.", histogram(first));
      for (const { name, help, values } of gauges) {
        const rows = values.map(({ labels = {}, value }) => [labelText(labels), value] as const);
        add(name, "gauge", help, rows);
      }
      return `${lines.join("\n")}\n`;
    },
  };
}

function observe(target: Histogram, seconds: number): void {
  const at = buckets.findIndex((bound) => seconds <= bound);
  const index = at < 0 ? buckets.length : at;
  target.counts[index] = (target.counts[index] ?? 0) + 1;
  target.sum += seconds;
}

function histogram({ counts, sum }: Histogram): [string, number][] {
  let total = 0;
  const rows = counts.map((count, i): [string, number] => {
    total += count;
    return [`_bucket{le="${buckets[i] ?? "+Inf"}"}`, total];
  });
  return [...rows, ["_sum", sum], ["_count", total]];
}

function labelText(labels: Readonly<Record<string, string>>): string {
  const parts = Object.entries(labels).map(
    ([name, value]) => `${name}="${value.replace(/[\\"\n]/g, (c) => (c === "\n" ? "\\n" : `\\${c}`))}"`,
  );
  return parts.length === 0 ? "" : `{${parts.join(",")}}`;
}
