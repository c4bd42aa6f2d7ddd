/** How many damaged files to try: LOWBIT_FUZZ where set, as in CI. */
export function fuzzCases(defaultRuns: number): number {
  const wanted = Number(process.env.LOWBIT_FUZZ);
  return Number.isSafeInteger(wanted) && wanted > 0 ? wanted : defaultRuns;
}

/** A damaged copy: one to four bits flipped, bytes replaced, runs overwritten, or the end cut off. `random` as from `random(seed)`. */
export function mutate(bytes: Uint8Array, random: () => number): Uint8Array {
  let copy = bytes.slice();
  const below = (limit: number): number => Math.floor(random() * limit);
  for (let left = 1 + below(4); left > 0 && copy.length > 0; left--) {
    const at = below(copy.length);
    switch (below(5)) {
      case 0:
        copy[at] = copy[at]! ^ (1 << below(8));
        break;
      case 1:
        copy[at] = below(256);
        break;
      case 2:
        copy[at] = [0, 255, 127, 128][below(4)]!;
        break;
      case 3:
        copy.fill(below(2) * 255, at, at + 1 + below(16));
        break;
      default:
        // Rare, because it hides all other damage.
        if (below(8) === 0) copy = copy.slice(0, at);
        else copy.copyWithin(at, below(copy.length), below(copy.length) + 1);
    }
  }
  return copy;
}
