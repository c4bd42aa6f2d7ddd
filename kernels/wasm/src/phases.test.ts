import { describe, expect, it } from "vitest";
import { byElements, Phases } from "./phases.ts";

const much = 1e6;

/** Opens and divided, for entries given as [work, reads, writes]; ranges are [address, bytes, sharing]. */
type Range = readonly [address: number, bytes: number, sharing?: number];
function placed(
  entries: readonly (readonly [work: number, reads: readonly Range[], writes: readonly Range[]])[],
) {
  const phases = new Phases();
  return entries.map(([work, reads, writes]) => {
    for (const [address, bytes, sharing = 0] of reads) phases.read(address, bytes, sharing);
    for (const [address, bytes, sharing = 0] of writes) phases.write(address, bytes, sharing);
    phases.work(work);
    const { opens, divided } = phases.place();
    return `${opens ? "opens" : "joins"}${divided ? ", divided" : ""}`;
  });
}

describe("phases", () => {
  it("independent products share one; what reads their results opens the next", () => {
    expect(
      placed([
        [much, [[0, 100]], [[1000, 100]]],
        [much, [[0, 100]], [[1100, 100]]],
        [much, [[1100, 100]], [[2000, 100]]],
      ]),
    ).toEqual(["opens, divided", "joins, divided", "opens, divided"]);
  });

  it("entries that are divided alike follow each other within a phase", () => {
    const alike = byElements(1, 25);
    expect(
      placed([
        [much, [[0, 100]], [[1000, 100, alike]]],
        [0, [[1000, 100, alike]], [[2000, 100, alike]]],
        [0, [[2000, 100, alike]], [[3000, 100]]],
        [much, [[3000, 100]], [[4000, 100]]],
      ]),
    ).toEqual(["opens, divided", "joins, divided", "joins, divided", "opens, divided"]);
  });

  it("a part of a range, or another division of it, is not alike", () => {
    const first = [much, [], [[1000, 100, 25]]] as const;
    expect(placed([first, [0, [[1000, 50, 25]], []]])[1]).toBe("opens");
    expect(placed([first, [0, [[1000, 100, 26]], []]])[1]).toBe("opens");
    expect(placed([first, [0, [[1000, 100, 0]], []]])[1]).toBe("opens");
    expect(placed([first, [0, [[1100, 100, 25]], []]])[1]).toBe("joins, divided");
  });

  it("memory that is read must not be overwritten in the same phase, nor written twice", () => {
    expect(
      placed([
        [much, [[0, 100]], []],
        [0, [], [[50, 100]]],
      ])[1],
    ).toBe("opens");
    expect(
      placed([
        [much, [], [[0, 100]]],
        [0, [], [[50, 100]]],
      ])[1],
    ).toBe("opens");
    expect(
      placed([
        [much, [[0, 100]], []],
        [0, [[50, 100]], []],
      ])[1],
    ).toBe("joins, divided");
  });

  it("little work in a row stays undivided, and nothing large joins it", () => {
    expect(
      placed([
        [0, [[0, 100]], [[1000, 100]]],
        [0, [[1000, 100]], [[2000, 100]]],
        [0, [[2000, 100]], [[3000, 100]]],
        [much, [[5000, 100]], [[6000, 100]]],
      ]),
    ).toEqual(["opens", "joins", "joins", "opens, divided"]);
  });

  it("something large divides what came before it, if that is independent", () => {
    expect(
      placed([
        [0, [[0, 100]], [[1000, 100]]],
        [much, [[0, 100]], [[2000, 100]]],
      ]),
    ).toEqual(["opens", "joins, divided"]);
  });
});
