// Two nodes on one Redis: tabs on both stay in step, and a killed node affects only its own tabs.

import assert from "node:assert/strict";
import { shows } from "./lib.mjs";
import { startRedis } from "./program.mjs";
import { scenario } from "./scenario.mjs";

scenario("two nodes share one counter, forward messages, and stop counting the tabs of a killed node", async ({ t, start, newContext, open }) => {
  const redis = await startRedis(t);
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
  await log(a).getByText(/received it, \d+\.\d ms round trip$/).waitFor();
  const other = await a.page.locator("#nodes-to option").evaluateAll((options) => options.find((option) => !option.label.includes("this one")).value);
  await a.page.locator("#nodes-to").selectOption(other);
  await a.page.locator("#nodes-one").click();
  await log(b).getByText(/→ Redis → .* this tab only$/).waitFor();
  await log(a).getByText(/found tab/).waitFor();

  b.mayBeOffline = true;
  await nodes[1].kill();
  await shows(a.tabs, "1");
  await a.page.locator("#example-chat [data-part=count]").filter({ hasText: /^1$/ }).waitFor({ timeout: 60_000 });

  // Without Redis, the node continues alone, reports it, and keeps its tabs.
  redis.kill();
  await a.page.locator("#nodes-backend").getByText("unavailable").waitFor();
  assert.deepEqual(await (await fetch(`${nodes[0].origin}/health`)).json(), { status: "degraded" });
  await shows(a.state, "connected");
  const late = await open(await newContext(), nodes[0].origin);
  await shows(late.state, "connected");
});
