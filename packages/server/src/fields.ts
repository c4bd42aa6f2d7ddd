import { ApiError, badField } from "./errors.ts";

/** What a field may be: undefined if the value is good, else what is allowed. */
export type Rule = (value: unknown) => string | undefined;
export type Rules = Readonly<Record<string, Rule>>;

export const text: Rule = (value) => (typeof value === "string" ? undefined : "a string");
export const boolean: Rule = (value) => (typeof value === "boolean" ? undefined : "true or false");
export const anything: Rule = () => undefined;

export const number =
  (low: number, high: number): Rule =>
  (value) =>
    typeof value === "number" && value >= low && value <= high
      ? undefined
      : `a number from ${low} to ${high}`;

export const integer =
  (low: number, high: number = Number.MAX_SAFE_INTEGER): Rule =>
  (value) =>
    Number.isSafeInteger(value) && (value as number) >= low && (value as number) <= high
      ? undefined
      : high === Number.MAX_SAFE_INTEGER
        ? `a whole number from ${low}`
        : `a whole number from ${low} to ${high}`;

/** A parameter that this server knows with these values alone. */
export const only =
  (...values: readonly (string | number | boolean)[]): Rule =>
  (value) =>
    values.includes(value as string)
      ? undefined
      : `${values.map((each) => JSON.stringify(each)).join(" or ")} here`;

export const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export const object: Rule = (value) => (isObject(value) ? undefined : "an object");

/** Describe the caller or group requests; they have no influence on an answer. */
export const labels: Rules = {
  user: text,
  metadata: object,
  safety_identifier: text,
  prompt_cache_key: text,
  prompt_cache_retention: text,
  service_tier: only("auto", "default"),
};

/** How tokens are chosen: OpenAI's names, and those of other servers for the rest. */
export const samplingRules: Rules = {
  temperature: number(0, 2),
  top_p: number(0, 1),
  top_k: integer(0, 2 ** 31 - 1),
  min_p: number(0, 1),
  typical_p: number(0, 1),
  repetition_penalty: number(0.01, 100),
  presence_penalty: number(-2, 2),
  frequency_penalty: number(-2, 2),
  seed: integer(0),
  logit_bias: object,
  stop: (value) => {
    const list = typeof value === "string" ? [value] : value;
    const good = Array.isArray(list) && list.length <= 16 && list.every((each) => typeof each === "string");
    return good ? undefined : "a string or an array of at most 16 strings";
  },
};

/**
 * Checks a JSON object against a table; null counts as absent. Throws 400 for a wrong value, and for a name that the table does not know:
 * a parameter that has no effect would be a silent lie.
 */
export function checkFields(body: unknown, rules: Rules, where = ""): Record<string, unknown> {
  if (!isObject(body))
    throw badField(where || "body", `${where || "The body"} must be a JSON object.`, "invalid_type");
  const fields: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(body)) {
    if (value === null || value === undefined) continue;
    const path = where === "" ? name : `${where}.${name}`;
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined;
    if (rule === undefined) {
      throw badField(path, `This server does not support the parameter ${path}.`, "unsupported_parameter");
    }
    const allowed = rule(value);
    if (allowed !== undefined) throw badField(path, `${path} is ${shown(value)}; it must be ${allowed}.`);
    fields[name] = value;
  }
  return fields;
}

/** Throws 400 if a required field is absent. */
export function need(fields: Readonly<Record<string, unknown>>, ...names: readonly string[]): void {
  for (const name of names) {
    if (fields[name] === undefined) throw badField(name, `${name} is missing.`, "missing_required_parameter");
  }
}

/** `stream_options` of the routes that stream chunks: whether the last of them tells the usage. */
export function includesUsage({ stream, stream_options }: Readonly<Record<string, unknown>>): boolean {
  const options = checkFields(
    stream_options ?? {},
    { include_usage: boolean, include_obfuscation: only(false) },
    "stream_options",
  );
  if (stream_options !== undefined && stream !== true) {
    throw badField("stream_options", "stream_options goes with stream: true.");
  }
  return options.include_usage === true;
}

function shown(value: unknown): string {
  const json = JSON.stringify(value);
  return json.length > 80 ? `${json.slice(0, 77)}…` : json;
}

/** The body as JSON. Throws 400 or 415. */
export async function readJson(request: Request): Promise<unknown> {
  const type = request.headers.get("content-type") ?? "";
  if (type !== "" && !/^application\/([\w.-]+\+)?json\b/i.test(type)) {
    throw new ApiError(415, `The body is ${type}; it must be application/json.`, {
      code: "unsupported_media_type",
    });
  }
  const body = await request.text();
  try {
    return JSON.parse(body);
  } catch (error) {
    throw new ApiError(400, `The body is not JSON: ${(error as Error).message}`, { code: "invalid_json" });
  }
}
