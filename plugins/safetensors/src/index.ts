export { safetensors, safetensorsFormat } from "./format.ts";
export { type HuggingFaceModel, huggingFaceModel } from "./hugging-face-config.ts";
export { writeHuggingFace } from "./write.ts";
