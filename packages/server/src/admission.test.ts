import type { Model } from "@lowbit/engine";
import { describe, expect, it } from "vitest";
import { ask, fakeModel, post, served, words } from "../test/fake-model.ts";
import { createServer } from "./index.ts";

const chat = { model: "default", messages: [{ role: "user", content: "hi" }] };
const path = "/v1/chat/completions";

const settled = () => new Promise((done) => setTimeout(done, 20));

describe("admission", () => {
  it("runs so many, lets so many wait, and turns the rest away with a time to come back", async () => {
    const { server, running } = served({ limits: { parallel: 2, queue: 1 } }, "endless");
    const clients = [0, 1, 2, 3].map(() => new AbortController());
    const [a, b, c, d] = clients.map(({ signal }) =>
      server.fetch(post(path, { ...chat, stream: true }, { signal })),
    );
    const refused = await (d as Promise<Response>);
    expect(refused.status).toBe(429);
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    await Promise.all([a, b]);
    expect(running()).toBe(2);
    clients[0]?.abort();
    expect((await (c as Promise<Response>)).status).toBe(200);
    expect(running()).toBe(2);
    for (const client of clients) client.abort();
    await settled();
    expect(running()).toBe(0);
  });

  it("forgets clients that leave the queue", async () => {
    const { server, running } = served({ limits: { parallel: 1, queue: 1 } }, "endless");
    const first = new AbortController();
    await server.fetch(post(path, { ...chat, stream: true }, { signal: first.signal }));
    const second = new AbortController();
    const waiting = server.fetch(post(path, chat, { signal: second.signal }));
    await settled();
    second.abort();
    expect((await waiting).status).toBe(499);
    first.abort();
    await settled();
    expect(running()).toBe(0);
  });

  it("answers 503 while a model is being loaded, and 500 if that failed", async () => {
    let ready: (model: Model) => void = () => undefined;
    const { model } = fakeModel(words("a"));
    const loading = new Promise<Model>((done) => {
      ready = done;
    });
    const server = createServer({
      models: { a: loading, b: Promise.reject(new Error("broken")) },
      onError: () => undefined,
    });
    const health = async () => (await server.fetch(new Request("http://server/health"))).json();
    const early = await ask(server, { ...chat, model: "a" });
    expect([early.status, early.body.error.code, early.headers.get("retry-after")]).toEqual([
      503,
      "model_loading",
      "2",
    ]);
    expect(await health()).toEqual({ status: "failed" });
    ready(model);
    await settled();
    expect((await ask(server, { ...chat, model: "a" })).status).toBe(200);
    expect((await ask(server, { ...chat, model: "b" })).status).toBe(500);
  });

  it("lets running answers end when it closes, turns new ones away, and ends those that take too long", async () => {
    const { server, running } = served({}, "endless");
    const response = await server.fetch(post(path, { ...chat, stream: true }));
    const closed = server.close({ graceMs: 30 });
    const late = await ask(server, chat);
    expect([late.status, late.body.error.code]).toEqual([503, "shutting_down"]);
    expect((await server.fetch(new Request("http://server/health"))).status).toBe(503);
    const text = await response.text();
    expect(text).toMatch(/"code":"shutting_down"\}\}\n\n$/);
    await closed;
    expect(running()).toBe(0);
  });

  it("ends answers that take longer than they may, also if nobody reads them", async () => {
    const { server, running } = served({ limits: { timeoutMs: 30 } }, "endless");
    const unread = await server.fetch(post(path, { ...chat, stream: true }));
    const { status, body } = await ask(server, chat);
    expect([status, body.error.code]).toEqual([504, "timeout"]);
    await settled();
    expect([running(), unread.status]).toEqual([0, 200]);
  });
});

describe("clients that vanish", () => {
  it("free their slot within a token: by the request's signal", async () => {
    const { server, running, tokens } = served({}, "endless");
    const client = new AbortController();
    const response = await server.fetch(post(path, { ...chat, stream: true }, { signal: client.signal }));
    const reader = response.body?.getReader();
    for (let i = 0; i < 5; i++) await reader?.read();
    const before = tokens();
    client.abort();
    await settled();
    expect(running()).toBe(0);
    expect(tokens() - before).toBeLessThanOrEqual(1);
  });

  it("by cancelling the stream", async () => {
    const { server, running, tokens } = served({}, "endless");
    const response = await server.fetch(post(path, { ...chat, stream: true }));
    const reader = response.body?.getReader();
    for (let i = 0; i < 5; i++) await reader?.read();
    const before = tokens();
    await reader?.cancel();
    await settled();
    expect(running()).toBe(0);
    expect(tokens() - before).toBeLessThanOrEqual(1);
  });

  it("before the answer begins", async () => {
    const { server, running } = served({}, "endless");
    const client = new AbortController();
    const response = server.fetch(post(path, chat, { signal: client.signal }));
    await settled();
    client.abort();
    expect((await response).status).toBe(499);
    expect(running()).toBe(0);
    expect((await server.fetch(post(path, chat, { signal: AbortSignal.abort() }))).status).toBe(499);
  });
});
