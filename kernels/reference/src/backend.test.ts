import { testBackend } from "@lowbit/testing";
import { reference } from "./index.ts";

testBackend("reference", reference(), { activations: "f32" });
testBackend("reference, decoding each row each time", reference({ decodedCacheBytes: 0 }), {
  activations: "f32",
  against: reference(),
});
