const months = "January February March April May June July August September October November December".split(
  " ",
);
const days = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

/**
 * The common codes of C's `strftime` in UTC and English, so that a prompt does not depend on the machine it is
 * made on. An unknown code is left as written.
 */
export function formatTime(time: Date, format: string): string {
  const pad = (value: number, width = 2): string => String(value).padStart(width, "0");
  const year = time.getUTCFullYear();
  const month = months[time.getUTCMonth()] ?? "";
  const day = days[time.getUTCDay()] ?? "";
  const hour = time.getUTCHours();
  const dayOfYear = 1 + Math.floor((time.getTime() - Date.UTC(year, 0, 1)) / 86_400_000);
  const codes: Record<string, string> = {
    "%Y": String(year),
    "%y": pad(year % 100),
    "%m": pad(time.getUTCMonth() + 1),
    "%B": month,
    "%b": month.slice(0, 3),
    "%d": pad(time.getUTCDate()),
    "%j": pad(dayOfYear, 3),
    "%A": day,
    "%a": day.slice(0, 3),
    "%H": pad(hour),
    "%I": pad(hour % 12 || 12),
    "%p": hour < 12 ? "AM" : "PM",
    "%M": pad(time.getUTCMinutes()),
    "%S": pad(time.getUTCSeconds()),
    "%Z": "UTC",
    "%%": "%",
  };
  return format.replace(/%[A-Za-z%]/g, (code) => codes[code] ?? code);
}
