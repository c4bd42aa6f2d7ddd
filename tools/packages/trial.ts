/** Something that a user would do with the installed packages. */
export interface Trial {
  readonly name: string;
  /** What came out, in a few words. Throws if it's wrong. */
  run(): Promise<string>;
}

/** pico's answer to the snippet's question. */
export const answer = "12 + 7 = 19.";

/** Are these the snippet's line, and then the platform's name and its backend's? */
export function expectLines(lines: readonly string[], platform: string): string {
  const wanted = [answer, `${platform} wasm`];
  if (JSON.stringify(lines) !== JSON.stringify(wanted))
    throw new Error(`It wrote ${JSON.stringify(lines)}; expected was ${JSON.stringify(wanted)}.`);
  return `${answer} (platform ${platform}, backend wasm)`;
}

export function linesOf(text: string): string[] {
  return text.trim().split("\n");
}
