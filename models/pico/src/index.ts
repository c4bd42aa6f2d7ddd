/** pico, a 3.4 M parameter instruction model, as files: the package holds no code beyond their addresses. */

/** The model to run: GGUF, Q8_0, 3.7 MB, with tokenizer and chat template inside. */
export const picoGguf: URL = new URL("../pico-Q8_0.gguf", import.meta.url);

// Bundlers look for the literal form above and bring that file along. Folders they cannot bring: in a bundle these two lead nowhere.
const here: string = import.meta.url;

/** The folder of the unquantized model: safetensors (f16), config.json, tokenizer.json, tokenizer_config.json. */
export const picoHuggingFace: URL = new URL("../hf/", here);

/** The folder of held-out evaluation items: `<skill>.jsonl`, one item a line. */
export const picoEvaluation: URL = new URL("../eval/", here);
