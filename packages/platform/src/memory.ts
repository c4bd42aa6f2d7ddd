const mebibyte = 2 ** 20;

/** A place whose memory is known beforehand. */
export interface MemoryPreset {
  /** What a model may take there: its memory, less what the engine and the program around it need. */
  readonly limitBytes: number;
  readonly title: string;
}

/**
 * What models have to fit into, by place. Cloudflare's isolates have 128 MB, of which lowbit itself, its code and what is not yet collected, takes up to 20; Deno Deploy
 * gives 768 MB by default; a tab of Safari on iOS is ended at about 1.5 GB; 32-bit WebAssembly addresses 4 GiB.
 */
export const memoryPresets: Readonly<
  Record<"workers" | "vercel-edge" | "deno-deploy" | "ios-safari" | "wasm32", MemoryPreset>
> = {
  workers: { limitBytes: 100 * mebibyte, title: "Cloudflare Workers (128 MB)" },
  "vercel-edge": { limitBytes: 100 * mebibyte, title: "Vercel's edge runtime (128 MB)" },
  "deno-deploy": { limitBytes: 640 * mebibyte, title: "Deno Deploy (768 MB)" },
  "ios-safari": { limitBytes: 1200 * mebibyte, title: "Safari on iOS (1.5 GB a tab)" },
  wasm32: { limitBytes: 4095 * mebibyte, title: "WebAssembly of 32 bits (4 GiB)" },
};
