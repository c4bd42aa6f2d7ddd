import type { PackedDescription, PlainJson } from "@lowbit/core";

/** What is kept with a stored weight until the folder is finished. */
export interface Note {
  /** Packed modules by name. */
  readonly packed?: Readonly<Record<string, PackedDescription>>;
  /** Linear modules that are plain. */
  readonly dense?: readonly string[];
  /** Vectors that stand in config.json, by role. */
  readonly rope?: Readonly<Record<string, readonly number[]>>;
}

export function noteJson(note: Note): PlainJson {
  return note as { readonly [key: string]: PlainJson };
}

/** All notes of a checkpoint as one. They come from this writer, perhaps by way of a journal. */
export function joinNotes(notes: readonly (PlainJson | undefined)[]): Required<Note> {
  const all = notes.map((note) => (note ?? {}) as Note);
  return {
    packed: Object.assign({}, ...all.map(({ packed }) => packed)) as Required<Note>["packed"],
    dense: all.flatMap(({ dense = [] }) => dense),
    rope: Object.assign({}, ...all.map(({ rope }) => rope)) as Required<Note>["rope"],
  };
}
