import {
  type Checkpoint,
  definePlugin,
  type Format,
  LowbitError,
  type Packing,
  type PackingOptions,
  type PackingWriter,
  type WriterOptions,
} from "@lowbit/core";
import { buildGrid, integerGrid } from "@lowbit/packing";
import { fakeCheckpoint, fakeWriter } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { targetNames, writerFor } from "./target.ts";

const seen: { options: PackingOptions[]; format: WriterOptions[] } = { options: [], format: [] };
const bad = (reason: string) => new LowbitError("bad-argument", `no ${reason}`, { reason });

const format = (name: string, packs: boolean): Format => ({
  name,
  detect: async () => 0,
  open: () => Promise.reject(new Error("only written")),
  async writer(_, options) {
    if (options.packing && !packs) throw bad("packing");
    if (options.type === "none") throw bad("type");
    seen.format.push(options);
    return fakeWriter();
  },
});

/** Takes grids of up to `most` bits, with zero points or not. */
const packing = (name: string, most: number, knows: readonly string[]): Packing => ({
  name,
  detect: () => 0,
  open: () => Promise.reject(new Error("only written")),
  writer(options) {
    for (const key of Object.keys(options)) if (!knows.includes(key)) throw bad(key);
    if ((options.bits ?? 4) > most) throw bad("bits");
    seen.options.push(options);
    return {
      hold: (weight) => ((integerGrid(weight)?.bits ?? 99) <= most ? weight : undefined),
      quantize: () => undefined,
      pack: () => [],
      configuration: () => ({ quantization: {} }),
    };
  },
});

const readOnly: Packing = { name: "reads", detect: () => 0, open: () => Promise.reject(new Error("unused")) };
const all = ["bits", "groupSize", "symmetric", "variant"];
const plugins = [
  definePlugin({ name: "a", apiVersion: 1, formats: [format("plain", false), format("folder", true)] }),
  definePlugin({
    name: "b",
    apiVersion: 1,
    packings: [packing("grid", 4, all), packing("loose", 8, ["bits", "variant"]), readOnly],
  }),
];

/** A source whose matrices are grids. */
function gridSource(bits: number, group: number, zero: number | "integer"): Checkpoint {
  const source = fakeCheckpoint({ width: 32 });
  const { segments } = buildGrid(32, 32, { bits, group, scale: "f16", zero });
  const [segment] = segments;
  return {
    ...source,
    entries: () =>
      source
        .entries()
        .map((entry) => (entry.role?.endsWith(".q") && segment ? { ...entry, type: segment.type } : entry)),
    weight: async () => ({ out: 32, in: 32, segments }),
  };
}

const optionsFor = async (source: Checkpoint, to: string, options = {}) =>
  (await writerFor(plugins, source, to, options)).options;

describe("writerFor", () => {
  it("knows formats and packings that write", () => {
    expect(targetNames(plugins)).toEqual(["plain", "folder", "grid", "loose"]);
  });

  it("hands a format its options", async () => {
    const target = await writerFor(plugins, fakeCheckpoint(), "plain", {
      type: "q",
      maxFileBytes: 5,
      bits: undefined,
    });
    expect(target).toMatchObject({ name: "plain", options: { type: "q", maxFileBytes: 5 } });
    expect(seen.format.at(-1)).toEqual({ type: "q", maxFileBytes: 5 });
  });

  it("writes a packing in the first format that has packings", async () => {
    const target = await writerFor(plugins, fakeCheckpoint(), "grid", { type: "f16" });
    expect(target).toMatchObject({ name: "grid", options: { type: "f16" } });
    expect(seen.format.at(-1)).toMatchObject({ type: "f16", packing: { name: "grid" } });
  });

  it("follows the source's bits and groups where the packing can hold them", async () => {
    expect(await optionsFor(gridSource(4, 16, 8), "grid")).toEqual({
      bits: 4,
      groupSize: 16,
      symmetric: true,
    });
    expect(await optionsFor(gridSource(3, 32, "integer"), "grid")).toEqual({
      bits: 3,
      groupSize: -1,
      symmetric: false,
    });
    expect(await optionsFor(gridSource(4, 16, 7), "grid")).toMatchObject({ symmetric: false });
    // One that knows bits alone.
    expect(await optionsFor(gridSource(8, 16, 128), "loose")).toEqual({ bits: 8 });
    // One that has not so many.
    expect(await optionsFor(gridSource(8, 16, 128), "grid")).toEqual({});
    expect(await optionsFor(fakeCheckpoint(), "grid")).toEqual({});
  });

  it("lets the user's choice stand above the source's", async () => {
    const chosen = { bits: 2, symmetric: false };
    expect(await optionsFor(gridSource(4, 16, 8), "grid", chosen)).toEqual({ ...chosen, groupSize: 16 });
    expect(await optionsFor(fakeCheckpoint(), "grid", chosen)).toEqual(chosen);
  });

  it("rounds grids of other bits, groups or zero points than the chosen ones anew", async () => {
    const hold = async (source: Checkpoint, options: object) => {
      await writerFor(plugins, source, "grid", options);
      const { packing } = seen.format.at(-1) as { packing: { writer: PackingWriter } };
      return packing.writer.hold(await source.weight("layers.0.attn.q")) !== undefined;
    };
    const source = gridSource(4, 16, 8);
    expect(await hold(source, {})).toBe(true);
    expect(await hold(source, { bits: 4, groupSize: 16, symmetric: true })).toBe(true);
    expect(await hold(source, { groupSize: 32 })).toBe(false);
    expect(await hold(source, { bits: 3 })).toBe(false);
    expect(await hold(gridSource(4, 16, 7), { symmetric: true })).toBe(false);
  });

  it.each([
    ["nothing", {}, "to", /"nothing".*plain, folder, grid, loose/],
    ["reads", {}, "to", /only read/],
    ["plain", { bits: 4 }, "bits", /plain has no bits/],
    ["plain", { type: "none" }, "type", /no type/],
    ["grid", { type: "none" }, "type", /no type/],
    ["grid", { bits: 8 }, "bits", /no bits/],
    ["loose", { groupSize: 8 }, "groupSize", /no groupSize/],
  ])("refuses %s with %j", async (to, options, reason, message) => {
    for (const source of [fakeCheckpoint(), gridSource(4, 16, 8)]) {
      const error = await writerFor(plugins, source, to, options).catch((error) => error);
      expect(error).toMatchObject({ code: "bad-argument", reason, message: expect.stringMatching(message) });
    }
  });

  it("needs a format for a packing", async () => {
    const alone = plugins.slice(1);
    const error = await writerFor(alone, fakeCheckpoint(), "grid").catch((error) => error);
    expect(error).toMatchObject({ code: "bad-argument", message: expect.stringMatching(/safetensors/) });
  });
});
