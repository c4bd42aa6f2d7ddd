/** What main.ts uses of Bun; `npm install @types/bun` brings all of its types. */
declare namespace Bun {
  const env: Readonly<Record<string, string | undefined>>;
  function serve(options: {
    hostname: string;
    port: number;
    idleTimeout: number;
    fetch: (request: Request) => Promise<Response>;
  }): { readonly hostname: string; readonly port: number; stop(): Promise<void> };
}
