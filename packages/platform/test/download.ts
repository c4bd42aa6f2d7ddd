// Downloads a file into a cache and says so when something has come: to be killed while it does.
import { cached, folderCache, remoteFiles } from "../src/node.ts";

const [base = "", folder = ""] = process.argv.slice(2);
const files = cached(remoteFiles(new URL("/m/model.gguf", base)), folderCache(folder), {
  parallel: 1,
  onProgress: () => console.log("piece"),
});
await files.open("model.gguf");
