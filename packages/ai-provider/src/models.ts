import { LowbitError } from "@lowbit/core";
import type { Model, ModelLocation } from "@lowbit/engine";

/**
 * A loaded model, one that is being loaded, or what to load when it is first asked for: a function, such as
 * `() => load(location, options)`, or a location for `load` with its default options.
 */
export type ModelSource = Model | PromiseLike<Model> | (() => Model | PromiseLike<Model>) | ModelLocation;

/** A model that is loaded at most once, however many ask for it. */
export interface LazyModel {
  /** Tries again where an earlier attempt to load failed. */
  get(): Promise<Model>;
  /** Frees the model if it was loaded here; one that was handed over stays its owner's. */
  dispose(): Promise<void>;
}

export function createLazyModel(id: string, source: ModelSource): LazyModel {
  const given = isModel(source) || isPromise(source);
  let loading: Promise<Model> | undefined;
  let disposed = false;

  if (isPromise(source)) {
    loading = Promise.resolve(source);
    // The failure is told to everyone who asks for the model; until then it is not an unhandled one.
    loading.catch(() => undefined);
  }

  const begin = async (): Promise<Model> => {
    if (isModel(source)) return source;
    if (typeof source === "function") return source();
    // Imported when needed, so that applications with an engine of their own do not load every format and kernel.
    const { load } = await import("lowbit");
    return load(source as ModelLocation);
  };

  return {
    async get() {
      if (disposed) {
        throw new LowbitError(
          "bad-argument",
          `The provider of the model ${JSON.stringify(id)} was disposed.`,
          {
            reason: "disposed",
            hint: "Create another one with createLowbit.",
          },
        );
      }
      if (loading === undefined) {
        const attempt = begin();
        loading = attempt;
        attempt.catch(() => {
          loading = undefined;
        });
      }
      return loading;
    },
    async dispose() {
      disposed = true;
      if (given) return;
      const model = await loading?.catch(() => undefined);
      await model?.dispose();
    },
  };
}

function has(value: unknown, ...methods: readonly string[]): boolean {
  return (
    typeof value === "object" &&
    value !== null &&
    methods.every((name) => typeof (value as Record<string, unknown>)[name] === "function")
  );
}

function isModel(source: ModelSource): source is Model {
  return has(source, "generate", "embed");
}

function isPromise(source: ModelSource): source is PromiseLike<Model> {
  return has(source, "then");
}
