// Programs other than the binary: the examples and the starter.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import axe from "axe-core";
import { PATIENCE } from "./lib.mjs";

export const BINARY = process.env.RIPPLECAST_BIN ?? fileURLToPath(new URL("../target/debug/ripplecast", import.meta.url));

// Starts a program. Resolves with the `count` addresses that it prints, and a function that stops it.
export async function start(t, command, args, count, { cwd, env = {} } = {}) {
  const child = spawn(command, args, { cwd, env: { ...process.env, NO_COLOR: "1", ...env }, stdio: ["ignore", "pipe", "inherit"] });
  const gone = once(child, "exit");
  const kill = async () => {
    child.kill("SIGKILL");
    await gone;
  };
  t.after(kill);
  const origins = [];
  const named = new Promise((resolve) => {
    createInterface({ input: child.stdout }).on("line", (line) => {
      const ports = [...line.matchAll(/127\.0\.0\.1:([1-9]\d*)/g)].map(([, port]) => `http://127.0.0.1:${port}`);
      origins.push(...ports);
      if (origins.length >= count) resolve({ origins, kill });
    });
  });
  const failed = gone.then(() => assert.fail(`${command} has exited; build it with: cargo build -p ripplecast-examples --examples`));
  return Promise.race([named, failed, wait(PATIENCE, null, { ref: false }).then(() => assert.fail(`${command} did not print an address`))]);
}

// Starts a Redis for one test, without persistence, on its own Unix socket. Returns its backend address and a
// function that kills it.
export async function startRedis(t) {
  const dir = await mkdtemp(join(tmpdir(), "ripplecast-e2e-"));
  const path = join(dir, "redis.sock");
  const child = spawn("redis-server", ["--port", "0", "--save", "", "--unixsocket", path], { cwd: dir, stdio: "ignore" });
  child.on("error", () => console.error("redis-server does not start. Install it: apt-get install redis-server"));
  const kill = () => child.kill("SIGKILL");
  process.once("exit", kill);
  t.after(async () => {
    kill();
    await rm(dir, { recursive: true, force: true });
  });
  const until = Date.now() + PATIENCE;
  while (!(await answers(path))) assert.ok(Date.now() < until && (await wait(20, true)), "redis-server does not listen");
  return { url: `redis+unix://${path}`, kill };
}

const answers = (path) => new Promise((resolve) => {
  const socket = connect(path, () => (socket.destroy(), resolve(true))).on("error", () => resolve(false));
});

// Checks that axe finds no problem and nothing is wider than the window.
export async function looksRight(page) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => window.axe.run());
  assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]), []);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "the page is wider than the window");
}
