// Compressed messages to and from two independent clients: Chromium and the npm package "ws".

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";
import WebSocket from "ws";
import { launch, startServer } from "./lib.mjs";

// Text and binary messages of many lengths, around the compression threshold and the lengths at which the
// frame header changes.
const LENGTHS = [0, 1, 99, 100, 101, 125, 126, 127, 1000, 65_535, 65_536, 200_000];
const text = (length) => "ripple, ".repeat(length / 8 + 1).slice(0, length);

let server;
before(async () => (server = await startServer(0, ["bench", "serve", "--compress-above", "100"])));
after(() => server?.kill());

test("ws: every message is echoed, and long ones are compressed", { timeout: 60_000 }, async () => {
  const socket = new WebSocket(`${server.origin.replace("http", "ws")}/echo`, { perMessageDeflate: { threshold: 0 } });
  await once(socket, "open");
  assert.match(socket.extensions, /permessage-deflate/);
  for (const length of LENGTHS) {
    const sent = text(length);
    const before = socket._socket.bytesRead;
    socket.send(sent);
    const [received, isBinary] = await once(socket, "message");
    assert.equal(isBinary, false);
    assert.equal(received.toString(), sent);
    const taken = socket._socket.bytesRead - before;
    assert.ok(length <= 100 ? taken >= length : taken < length / 2, `${taken} bytes for ${length}`);
    const bytes = Buffer.from(sent).map((byte, at) => byte ^ (at * at));
    socket.send(bytes);
    const [echoed, echoedIsBinary] = await once(socket, "message");
    assert.equal(echoedIsBinary, true);
    assert.ok(bytes.equals(echoed));
  }
  socket.close(1000);
  const [code] = await once(socket, "close");
  assert.equal(code, 1000);
});

test("ws: a client that does not offer compression gets plain messages", { timeout: 60_000 }, async () => {
  const socket = new WebSocket(`${server.origin.replace("http", "ws")}/echo`, { perMessageDeflate: false });
  await once(socket, "open");
  assert.equal(socket.extensions, "");
  socket.send(text(1000));
  const [received] = await once(socket, "message");
  assert.equal(received.toString(), text(1000));
  socket.close();
  await once(socket, "close");
});

test("Chromium: every message is echoed", { timeout: 60_000 }, async (t) => {
  const browser = await launch();
  t.after(() => browser.close());
  const page = await browser.newPage();
  const [extensions, wrong] = await page.evaluate(
    async ([url, lengths]) => {
      const socket = new WebSocket(url);
      await new Promise((resolve, reject) => Object.assign(socket, { onopen: resolve, onerror: reject }));
      const wrong = [];
      for (const length of lengths) {
        const sent = "ripple, ".repeat(length / 8 + 1).slice(0, length);
        socket.send(sent);
        const { data } = await new Promise((resolve) => (socket.onmessage = resolve));
        if (data !== sent) wrong.push(length);
      }
      socket.close();
      return [socket.extensions, wrong];
    },
    [`${server.origin.replace("http", "ws")}/echo`, LENGTHS],
  );
  assert.match(extensions, /permessage-deflate/);
  assert.deepEqual(wrong, []);
});
