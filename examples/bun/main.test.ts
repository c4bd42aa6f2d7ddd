import { fileURLToPath } from "node:url";
import { describeServedExample } from "@lowbit/testing/served-example";
import manifest from "./package.json" with { type: "json" };

describeServedExample("bun", fileURLToPath(new URL(".", import.meta.url)), manifest.scripts.start);
