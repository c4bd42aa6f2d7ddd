import type { Expression, Expressions } from "./expression.ts";

/** A limit of a number; `open`: the limit itself is outside. */
export interface Limit {
  readonly value: number;
  readonly open: boolean;
}

/** Digits before the point where no limit says otherwise, and after it: together no more than a double keeps apart. */
const mostDigits = 15;

/** Whole numbers from `low` to `high`, without exponent. Beyond what a double counts exactly only if the limits leave no others. */
export function integers(
  expressions: Expressions,
  low: Limit | undefined,
  high: Limit | undefined,
): Expression {
  const widest = low || high ? BigInt(Number.MAX_SAFE_INTEGER) : 10n ** BigInt(mostDigits) - 1n;
  const from = low && wholeAbove(low);
  const to = high && wholeBelow(high);
  return between(
    expressions,
    from !== undefined && (from >= -widest || (to !== undefined && to < -widest)) ? from : least(to, widest),
    to !== undefined && (to <= widest || (from !== undefined && from > widest))
      ? to
      : -least(from && -from, widest),
  );
}

/** Where no limit is, the smallest number; below `to` if that is smaller still. */
function least(to: bigint | undefined, widest: bigint): bigint {
  return to !== undefined && to < -widest ? to * 10n : -widest;
}

function wholeAbove({ value, open }: Limit): bigint {
  const whole = BigInt(Math.ceil(value));
  return open && Number.isInteger(value) ? whole + 1n : whole;
}

function wholeBelow({ value, open }: Limit): bigint {
  const whole = BigInt(Math.floor(value));
  return open && Number.isInteger(value) ? whole - 1n : whole;
}

function between(expressions: Expressions, from: bigint, to: bigint): Expression {
  const { sequence, choice, bytes, nothing } = expressions;
  const zero = 0n;
  return choice([
    to < zero ? nothing : magnitudes(expressions, from > zero ? from : zero, to),
    // −0 is left out: it is 0 written twice.
    from >= zero ? nothing : sequence(bytes("-"), magnitudes(expressions, to < zero ? -to : 1n, -from)),
  ]);
}

/** Numbers without sign, from `from` to `to`: one expression for each count of digits. */
function magnitudes(expressions: Expressions, from: bigint, to: bigint): Expression {
  const found: Expression[] = [];
  for (let digits = String(from).length; digits <= String(to).length; digits++) {
    const least = digits === 1 ? 0n : 10n ** BigInt(digits - 1);
    const most = 10n ** BigInt(digits) - 1n;
    const low = from > least ? from : least;
    const high = to < most ? to : most;
    if (low <= high) found.push(sameLength(expressions, String(low), String(high)));
  }
  return expressions.choice(found);
}

/** Strings of digits from `low` to `high`, all of one length. */
function sameLength(expressions: Expressions, low: string, high: string): Expression {
  const { sequence, choice } = expressions;
  if (/^0*$/.test(low) && /^9*$/.test(high))
    return expressions.repeat(digit(expressions, 0, 9), low.length, low.length);
  const [first, last] = [Number(low[0]), Number(high[0])];
  const [rest, count] = [low.slice(1), low.length - 1];
  if (first === last)
    return sequence(digit(expressions, first, first), sameLength(expressions, rest, high.slice(1)));
  const [zeros, nines] = ["0".repeat(count), "9".repeat(count)];
  return choice([
    sequence(digit(expressions, first, first), sameLength(expressions, rest, nines)),
    sequence(digit(expressions, first + 1, last - 1), sameLength(expressions, zeros, nines)),
    sequence(digit(expressions, last, last), sameLength(expressions, zeros, high.slice(1))),
  ]);
}

function digit({ set, nothing }: Expressions, from: number, to: number): Expression {
  return from > to ? nothing : set([0x30 + from, 0x30 + to]);
}

/**
 * Numbers between the limits. Without limits any number of at most 15 digits on either side of the point, and an exponent of at
 * most two digits; with them no exponent, and no more digits in all than a double keeps apart from the limit itself.
 */
export function decimals(
  expressions: Expressions,
  low: Limit | undefined,
  high: Limit | undefined,
): Expression {
  const { sequence, choice, bytes, optional, repeat, set, nothing, both } = expressions;
  const digits = digit(expressions, 0, 9);
  const whole = between(expressions, 0n, 10n ** BigInt(mostDigits) - 1n);
  if (low === undefined && high === undefined) {
    return sequence(
      optional(bytes("-")),
      whole,
      optional(sequence(bytes("."), repeat(digits, 1, mostDigits))),
      optional(
        sequence(
          set([0x45, 0x45, 0x65, 0x65]),
          optional(set([0x2b, 0x2b, 0x2d, 0x2d])),
          repeat(digits, 1, 2),
        ),
      ),
    );
  }
  const before = [low, high].map((limit) => (limit ? decimal(Math.abs(limit.value))[0].length : 1));
  const after = Math.max(0, mostDigits - Math.max(...before));
  const shape = sequence(
    whole,
    optional(after === 0 ? nothing : sequence(bytes("."), repeat(digits, 1, after))),
  );
  const zero: Limit = { value: 0, open: false };
  const within = (from: Limit | undefined, to: Limit | undefined): Expression =>
    both([
      shape,
      from ? atLeast(expressions, from) : expressions.anything,
      to ? atMost(expressions, to) : expressions.anything,
    ]);
  const lowest = low ?? { value: Number.NEGATIVE_INFINITY, open: false };
  const highest = high ?? { value: Number.POSITIVE_INFINITY, open: false };
  return choice([
    highest.value < 0 ? nothing : within(lowest.value < 0 ? zero : low, high),
    lowest.value >= 0
      ? nothing
      : sequence(
          bytes("-"),
          within(
            highest.value <= 0
              ? { value: -highest.value, open: highest.open || highest.value === 0 }
              : { value: 0, open: true },
            low && { value: -low.value, open: low.open },
          ),
        ),
  ]);
}

/** Of numbers without sign and limits from 0. Everything after the compared part is left to the shape. */
function atLeast(expressions: Expressions, { value, open }: Limit): Expression {
  const { sequence, choice, bytes, anything, optional } = expressions;
  const [whole, fraction] = decimal(value);
  const zeros = expressions.repeat(digit(expressions, 0, 0), 0, Number.POSITIVE_INFINITY);
  const positive = sequence(zeros, digit(expressions, 1, 9), anything);
  const from = (at: number): Expression => {
    if (at === fraction.length) return open ? positive : anything;
    const here = Number(fraction[at]);
    return choice([
      sequence(digit(expressions, here + 1, 9), anything),
      sequence(digit(expressions, here, here), from(at + 1)),
    ]);
  };
  const rest = optional(sequence(bytes("."), anything));
  const larger = sequence(
    magnitudes(expressions, BigInt(whole) + 1n, 10n ** BigInt(Math.max(mostDigits, whole.length) + 1)),
    rest,
  );
  const point = sequence(bytes("."), from(0));
  const equal = fraction === "" && !open ? rest : point;
  return choice([larger, sequence(bytes(whole), equal)]);
}

function atMost(expressions: Expressions, { value, open }: Limit): Expression {
  const { sequence, choice, bytes, anything, optional, empty, nothing } = expressions;
  const [whole, fraction] = decimal(value);
  const zeros = expressions.repeat(digit(expressions, 0, 0), 0, Number.POSITIVE_INFINITY);
  const to = (at: number): Expression => {
    if (at === fraction.length) return open ? nothing : zeros;
    const here = Number(fraction[at]);
    return choice([
      sequence(digit(expressions, 0, here - 1), anything),
      sequence(digit(expressions, here, here), to(at + 1)),
      // Ending early is smaller: the last digit of the limit is not 0.
      at > 0 ? empty : nothing,
    ]);
  };
  const smaller =
    whole === "0"
      ? nothing
      : sequence(magnitudes(expressions, 0n, BigInt(whole) - 1n), optional(sequence(bytes("."), anything)));
  const point = sequence(bytes("."), to(0));
  const equal = fraction === "" && open ? nothing : optional(point);
  return choice([smaller, sequence(bytes(whole), equal)]);
}

/** Digits before and after the point of a number without sign, written out; no zeros at the end. */
function decimal(value: number): readonly [string, string] {
  const [mantissa = "", exponent = "0"] = String(value).split("e");
  const [before = "", after = ""] = mantissa.split(".");
  const shift = Number(exponent);
  const all = before + after;
  const point = before.length + shift;
  const padded = point <= 0 ? "0".repeat(1 - point) + all : all.padEnd(point, "0");
  const at = point <= 0 ? 1 : point;
  return [padded.slice(0, at).replace(/^0+(?=\d)/, ""), padded.slice(at).replace(/0+$/, "")];
}
