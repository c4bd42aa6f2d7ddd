/** What main.ts uses of Deno, for a type check without Deno, which brings its own types. */
declare namespace Deno {
  type Signal = "SIGINT" | "SIGTERM";
  const env: { get(name: string): string | undefined; has(name: string): boolean };
  function serve(
    options: {
      hostname: string;
      port: number;
      onListen: (address: { hostname: string; port: number }) => void;
    },
    handler: (request: Request, info: unknown) => Promise<Response>,
  ): { shutdown(): Promise<void> };
  function addSignalListener(signal: Signal, handler: () => void): void;
  function removeSignalListener(signal: Signal, handler: () => void): void;
  function exit(code: number): never;
}
