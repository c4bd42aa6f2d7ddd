/** What a page runs that wants every format. */
import { load } from "lowbit";
import { serveWorker } from "./lowbit-worker.ts";

serveWorker(load);
