import type {
  LanguageModelV4,
  LanguageModelV4CallOptions,
  LanguageModelV4StreamPart,
} from "@ai-sdk/provider";
import type { GenerateEvent } from "@lowbit/core";
import { abortError, orAbort, waitFor } from "./abort.ts";
import type { LazyModel } from "./models.ts";
import { providerName } from "./options.ts";
import { createPartWriter, wholeAnswer } from "./parts.ts";
import { requestOf } from "./request.ts";

export function createLanguageModel(modelId: string, source: LazyModel): LanguageModelV4 {
  return {
    specificationVersion: "v4",
    provider: providerName,
    modelId,
    supportedUrls: {},

    async doGenerate(options) {
      const { request, warnings } = requestOf(options);
      return orAbort(options.abortSignal, async () => {
        const model = await waitFor(source.get(), options.abortSignal);
        const answer = await wholeAnswer(model.generate(request));
        return { ...answer, warnings, response: { modelId, timestamp: new Date() } };
      });
    },

    async doStream(options) {
      const { request, warnings } = requestOf(options);
      const { abortSignal } = options;
      /** A reader that leaves ends the generation as an abort does. */
      const left = new AbortController();
      const signal = abortSignal ? AbortSignal.any([abortSignal, left.signal]) : left.signal;
      return orAbort(abortSignal, async () => {
        const model = await waitFor(source.get(), abortSignal);
        const events = model.generate({ ...request, signal });
        // Wrong options and prompts that do not fit are errors of the call, not of the stream.
        const first = await events.next();
        const head: LanguageModelV4StreamPart[] = [
          { type: "stream-start", warnings },
          { type: "response-metadata", modelId, timestamp: new Date() },
        ];
        return { stream: partStream(head, first, events, { options, left }) };
      });
    },
  };
}

interface StreamControls {
  readonly options: LanguageModelV4CallOptions;
  readonly left: AbortController;
}

/** Generates as fast as it is read. */
function partStream(
  head: readonly LanguageModelV4StreamPart[],
  first: IteratorResult<GenerateEvent, void>,
  events: AsyncGenerator<GenerateEvent, void, void>,
  { options: { abortSignal, includeRawChunks = false }, left }: StreamControls,
): ReadableStream<LanguageModelV4StreamPart> {
  const writer = createPartWriter();
  let next: IteratorResult<GenerateEvent, void> | undefined = first;
  return new ReadableStream<LanguageModelV4StreamPart>({
    start(controller) {
      for (const part of head) controller.enqueue(part);
    },
    async pull(controller) {
      try {
        for (let parts = 0; parts === 0; ) {
          const { done, value } = next ?? (await events.next());
          next = undefined;
          if (left.signal.aborted) return;
          if (done) return controller.close();
          if (includeRawChunks) parts = enqueue(controller, [{ type: "raw", rawValue: value }]);
          parts += enqueue(controller, writer.push(value));
        }
      } catch (error) {
        if (left.signal.aborted) return;
        if (abortSignal?.aborted) return controller.error(abortError(abortSignal));
        enqueue(controller, writer.fail(error));
        controller.close();
      }
    },
    async cancel() {
      left.abort();
      // A step that is on its way ends with the abort, which nobody is left to hear of.
      await events.return().catch(() => undefined);
    },
  });
}

function enqueue(
  controller: ReadableStreamDefaultController<LanguageModelV4StreamPart>,
  parts: readonly LanguageModelV4StreamPart[],
): number {
  for (const part of parts) controller.enqueue(part);
  return parts.length;
}
