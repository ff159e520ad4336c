// Two nodes on one Redis: tabs on both follow each other, and a node that dies takes nothing with it.

import assert from "node:assert/strict";
import { shows } from "./lib.mjs";
import { startRedis } from "./program.mjs";
import { scenario } from "./scenario.mjs";

scenario("two nodes: one counter, messages across, and the tabs of a killed node are not counted", async ({ t, start, newContext, open }) => {
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
  redis.kill();
  await a.page.locator("#nodes-backend").getByText("which is away").waitFor();
  assert.deepEqual(await (await fetch(`${nodes[0].origin}/health`)).json(), { status: "degraded" });
  await shows(a.state, "connected");
  const late = await open(await newContext(), nodes[0].origin);
  await shows(late.state, "connected");
});
