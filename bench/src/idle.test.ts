import { expect, it } from "vitest";
import { busyShare, coreTimes, crowded, waitForQuiet } from "./idle.ts";

it("a round begins at once on a quiet machine, else when it has become quiet", async () => {
  const shares = [0.6, 0.3, 0.02];
  expect(await waitForQuiet(60_000, async () => 0.05)).toMatchObject({ busyShare: 0.05, disturbed: false });
  expect(await waitForQuiet(60_000, async () => shares.shift() ?? 1)).toMatchObject({
    busyShare: 0.02,
    disturbed: false,
  });
  expect(shares).toEqual([]);
});

it("it does not wait for ever, and says so", async () => {
  expect(await waitForQuiet(0, async () => 0.7)).toMatchObject({ busyShare: 0.7, disturbed: true });
});

it("shares are of the time that has passed", () => {
  expect(busyShare({ busy: 100, all: 1000 }, { busy: 150, all: 1100 })).toBe(0.5);
  expect(busyShare({ busy: 100, all: 1000 }, { busy: 100, all: 1000 })).toBe(0);
  const now = coreTimes();
  expect(now.busy).toBeLessThanOrEqual(now.all);
});

it("a pass is crowded if clearly more cores are busy than it has threads", () => {
  expect(crowded(0.55, 2, 1)).toBe(false);
  expect(crowded(0.95, 2, 1)).toBe(true);
  expect(crowded(1, 2, 2)).toBe(false);
});
