// A test with its own servers and tabs, and the accessibility audit.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import axe from "axe-core";
import { launch, openTab, shows, startServer } from "./lib.mjs";

let browser;
before(async () => (browser = await launch()));
after(() => browser?.close());

// A test with its own server and tabs, which also fails if a tab recorded a problem.
export function scenario(name, run) {
  test(name, { timeout: 240_000 }, async (t) => {
    const servers = [];
    const contexts = [];
    const tabs = [];
    t.after(async () => {
      await Promise.all(contexts.map((context) => context.close()));
      await Promise.all(servers.map((server) => server.kill()));
    });
    const start = async (port, command) => {
      const server = await startServer(port, command);
      servers.push(server);
      return server;
    };
    const newContext = async (options) => {
      const context = await browser.newContext(options);
      contexts.push(context);
      return context;
    };
    const open = async (context, origin, path) => {
      const tab = await openTab(context, origin, path);
      tabs.push(tab);
      return tab;
    };
    // Opens two connected tabs, as most tests do first.
    const two = async (origin) => {
      const context = await newContext();
      const pair = [await open(context, origin), await open(context, origin)];
      for (const tab of pair) await shows(tab.state, "connected");
      return pair;
    };
    // Cuts the network of a context's tabs. Returns a function that restores it.
    const cut = async (context) => {
      for (const tab of tabs) if (tab.page.context() === context) tab.mayBeOffline = true;
      await context.setOffline(true);
      return () => context.setOffline(false);
    };
    await run({ t, start, newContext, open, two, cut });
    assert.deepEqual(tabs.flatMap((tab) => tab.problems), []);
  });
}

// Returns axe-core's findings for the page in its current state.
export async function audit(page) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => window.axe.run());
  assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]), []);
}

