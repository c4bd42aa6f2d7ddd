import { badField } from "./errors.ts";
import { checkFields, integer, labels, need, only, type Rules, readJson, text } from "./fields.ts";
import type { Models } from "./models.ts";
import type { Work } from "./work.ts";

const rules: Rules = {
  ...labels,
  model: text,
  input: () => undefined,
  encoding_format: only("float", "base64"),
  dimensions: integer(1),
};

/** POST /v1/embeddings */
export async function embeddings(models: Models, request: Request, work: Work): Promise<Response> {
  const fields = checkFields(await readJson(request), rules);
  need(fields, "model", "input");
  const model = models.find(fields.model as string);
  const { embeddingSize } = model.info;
  if (fields.dimensions !== undefined && fields.dimensions !== embeddingSize) {
    throw badField(
      "dimensions",
      `dimensions is ${fields.dimensions}; this model's embeddings have ${embeddingSize}.`,
    );
  }
  const { input } = fields;
  const texts: readonly unknown[] = Array.isArray(input) ? input : [input];
  const good = texts.length > 0 && texts.every((each) => typeof each === "string" && each !== "");
  if (!good || texts.length > work.limits.inputs) {
    throw badField(
      "input",
      `input must be a string or an array of 1 to ${work.limits.inputs} strings, none of them empty.`,
    );
  }
  const counts = (texts as readonly string[]).map((each) => model.tokenizer.encode(each).length);
  const longest = Math.max(...counts);
  if (longest > work.limits.promptTokens) {
    throw badField(
      "input",
      `A text has ${longest} tokens; this server takes ${work.limits.promptTokens}.`,
      "context_length_exceeded",
    );
  }
  await work.start();
  // Together: they share passes.
  const vectors = await Promise.all(
    (texts as readonly string[]).map((each) => model.embed(each, { signal: work.signal })),
  );
  const total = counts.reduce((sum, count) => sum + count, 0);
  return Response.json({
    object: "list",
    model: fields.model,
    data: vectors.map((vector, index) => ({
      object: "embedding",
      index,
      embedding: fields.encoding_format === "base64" ? base64(vector) : [...vector],
    })),
    usage: { prompt_tokens: total, total_tokens: total },
  });
}

/** Little-endian f32. */
function base64(vector: Float32Array): string {
  const view = new DataView(new ArrayBuffer(4 * vector.length));
  vector.forEach((value, i) => {
    view.setFloat32(4 * i, value, true);
  });
  let bytes = "";
  for (const byte of new Uint8Array(view.buffer)) bytes += String.fromCharCode(byte);
  return btoa(bytes);
}
