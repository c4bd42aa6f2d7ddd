import type { Model } from "@lowbit/engine";
import { ApiError } from "./errors.ts";

/** A model, or one that is being loaded. */
export type ModelSource = Model | Promise<Model>;

export interface NamedModel {
  readonly id: string;
  readonly created: number;
  readonly state: "loading" | "ready" | "failed";
  /** Once it is ready. */
  readonly model: Model | undefined;
}

/** The models of a server by the names that requests use. */
export interface Models {
  readonly all: readonly NamedModel[];
  /** Throws 404 for a name that is not here, 503 while it is being loaded, 500 if that failed. */
  find(id: string): Model;
}

export function createModels(sources: Readonly<Record<string, ModelSource>>): Models {
  const all = Object.entries(sources).map(([id, source]): NamedModel => {
    let model: Model | undefined;
    let state: NamedModel["state"] = "loading";
    const ready = (loaded: Model): void => {
      model = loaded;
      state = "ready";
    };
    if (source instanceof Promise) {
      source.then(ready, () => {
        state = "failed";
      });
    } else ready(source);
    return {
      id,
      created: Math.floor(Date.now() / 1000),
      get state() {
        return state;
      },
      get model() {
        return model;
      },
    };
  });
  const byId = new Map(all.map((entry) => [entry.id, entry]));
  return {
    all,
    find(id) {
      const entry = byId.get(id);
      if (entry === undefined) {
        throw new ApiError(
          404,
          `There is no model ${JSON.stringify(id.slice(0, 200))} here; there is ${[...byId.keys()].join(", ")}.`,
          {
            code: "model_not_found",
            param: "model",
          },
        );
      }
      if (entry.state === "loading") {
        throw new ApiError(503, `The model ${id} is still being loaded.`, {
          code: "model_loading",
          retryAfter: 2,
        });
      }
      if (entry.model === undefined) {
        throw new ApiError(500, `The model ${id} could not be loaded.`, { code: "model_failed" });
      }
      return entry.model;
    },
  };
}
