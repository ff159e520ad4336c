// Two nodes on one Redis: tabs on both follow each other, and a node that dies takes nothing with it.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { connect, createServer } from "node:net";
import { once } from "node:events";
import { shows } from "./lib.mjs";
import { scenario } from "./scenario.mjs";

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

// Whether somebody listens on a port.
function answers(port) {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

// A Redis that keeps nothing, and ends with the test.
async function startRedis() {
  assert.equal(spawnSync("redis-server", ["--version"]).status, 0, "redis-server was not found; install it: apt-get install redis-server");
  const port = await freePort();
  const child = spawn("redis-server", ["--bind", "127.0.0.1", "--port", `${port}`, "--save", "", "--appendonly", "no"], { stdio: "ignore" });
  process.once("exit", () => child.kill("SIGKILL"));
  while (!(await answers(port))) {
    assert.equal(child.exitCode, null, "redis-server ended");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return { url: `redis://127.0.0.1:${port}`, child };
}

scenario("two nodes: one counter, messages across, and the tabs of a killed node are not counted", async ({ start, newContext, open }) => {
  const redis = await startRedis();
  try {
    const nodes = [await start(0, ["--backend", redis.url]), await start(0, ["--backend", redis.url])];
    const tabs = [];
    for (const { origin } of nodes) tabs.push(await open(await newContext(), origin));
    const [a, b] = tabs;
    for (const tab of tabs) await shows(tab.tabs, "2");
    assert.notEqual(await a.page.locator("#node").textContent(), await b.page.locator("#node").textContent());

    await a.bump.click();
    for (const tab of tabs) await shows(tab.value, "1");
    await b.bump.click();
    for (const tab of tabs) await shows(tab.value, "2");

    const log = (tab) => tab.page.locator("#nodes-log");
    await a.page.locator("#nodes-to option").nth(1).waitFor({ state: "attached" });
    await a.page.getByRole("button", { name: "Send to all tabs" }).click();
    await log(b).getByText(/^POST → node \w+ → Redis → node \w+ → this tab$/).waitFor();
    await log(a).getByText(/has got it, \d+\.\d ms there and back$/).waitFor();
    const other = await a.page.locator("#nodes-to option").evaluateAll((options) => options.find((option) => !option.label.includes("this one")).value);
    await a.page.locator("#nodes-to").selectOption(other);
    await a.page.locator("#nodes-one").click();
    await log(b).getByText(/→ Redis → .* and no other$/).waitFor();
    await log(a).getByText(/asked who has tab/).waitFor();

    b.mayBeOffline = true;
    await nodes[1].kill();
    await shows(a.tabs, "1");
    await a.page.locator("#example-chat [data-part=count]").filter({ hasText: /^1$/ }).waitFor({ timeout: 60_000 });

    // Without Redis the node goes on alone, says so, and keeps its tabs.
    redis.child.kill("SIGKILL");
    await a.page.locator("#nodes-backend").getByText("which is away").waitFor();
    assert.deepEqual(await (await fetch(`${nodes[0].origin}/health`)).json(), { status: "degraded" });
    await shows(a.state, "connected");
    const late = await open(await newContext(), nodes[0].origin);
    await shows(late.state, "connected");
  } finally {
    redis.child.kill("SIGKILL");
  }
});
