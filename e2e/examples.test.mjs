// The examples' pages in a real browser: two tabs each, in both color schemes, at 320 px.

import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { launch, notes, openTab, PATIENCE, shows } from "./lib.mjs";
import { BINARY, looksRight, start, startRedis } from "./program.mjs";

let browser;
before(async () => (browser = await launch()));
after(() => browser?.close());

// A test of an example with its own tabs, which also fails if a tab recorded a problem.
function example(name, run, { nodes = 1, redis = false } = {}) {
  for (const colorScheme of ["light", "dark"]) {
    test(`${name}, ${colorScheme}`, { timeout: 4 * PATIENCE }, async (t) => {
      const args = redis ? [(await startRedis(t)).url] : [];
      const { origins } = await start(t, join(dirname(BINARY), "examples", name), ["0", ...args], nodes);
      const context = await browser.newContext({ colorScheme, viewport: { width: 320, height: 640 } });
      t.after(() => context.close());
      const tabs = [];
      const open = async (origin = origins[0]) => {
        const tab = await openTab(context, origin, "/");
        tabs.push(tab);
        return tab.page;
      };
      await run({ open, origins });
      for (const { page } of tabs) if (!page.isClosed()) await looksRight(page);
      assert.deepEqual(tabs.flatMap(({ problems }) => problems), []);
    });
  }
}

// The counter's page has neither styles nor landmarks, so only its behavior is tested.
test("counter", { timeout: 4 * PATIENCE }, async (t) => {
  const { origins: [origin] } = await start(t, join(dirname(BINARY), "examples", "counter"), ["0"], 1);
  const context = await browser.newContext();
  t.after(() => context.close());
  const tabs = [await openTab(context, origin, "/"), await openTab(context, origin, "/")];
  for (const { value } of tabs) await shows(value, "0");
  for (const [n, { bump }] of tabs.entries()) {
    await bump.click();
    for (const { value } of tabs) await shows(value, n + 1);
  }
  // It has no icon either, which Chromium requests once.
  assert.deepEqual(tabs.flatMap(({ problems }) => problems).filter((problem) => !problem.includes("/favicon.ico")), []);
});

example("chat", async ({ open }) => {
  const guests = [];
  for (const name of ["ada", "bob"]) {
    const page = await open();
    await page.getByLabel("Your name").fill(name);
    await page.keyboard.press("Enter");
    await shows(page.getByRole("status"), "You are in lobby.");
    guests.push(page);
  }
  await guests[1].keyboard.type("hello <b>"); // the field has the focus
  await guests[1].keyboard.press("Enter");
  for (const page of guests) await shows(page.getByRole("log").locator("li").first(), "bobhello <b>");
  await guests.pop().close();
  await shows(guests[0].getByRole("log").locator("li").first(), "bobleft");
});

example("sse-progress", async ({ open }) => {
  const page = await open();
  const state = await notes(page.getByRole("status")); // the job takes five seconds
  await page.getByRole("button", { name: "Start" }).click();
  await state("Running.");
  const [other] = await Promise.all([
    page.context().waitForEvent("page"),
    page.getByRole("button", { name: "Follow in another tab" }).click(),
  ]);
  for (const tab of [page, other]) {
    await shows(tab.getByRole("status"), "Done.");
    assert.equal(await tab.getByRole("progressbar").evaluate((bar) => bar.value), 100);
  }
});

example("htmx-todo", async ({ open }) => {
  const tabs = [await open(), await open()];
  for (const page of tabs) await shows(page.getByRole("listitem"), "Nothing to do.");
  for (const text of ["milk", "<b>bread"]) {
    await tabs[0].getByLabel("New item").fill(text);
    await tabs[0].keyboard.press("Enter");
    for (const page of tabs) await page.getByText(text, { exact: true }).waitFor();
    await tabs[0].waitForFunction(() => document.querySelector("input").value === "" && document.activeElement.name === "text");
  }
  await tabs[1].getByRole("button", { name: "Done: milk" }).focus();
  await tabs[1].keyboard.press("Enter");
  for (const page of tabs) await page.locator(".done", { hasText: "milk" }).waitFor();
  assert.match(await tabs[1].evaluate(() => document.activeElement.id), /^done-/, "focus was lost");
  await tabs[1].getByRole("button", { name: "Remove: milk" }).click();
  for (const page of tabs) await shows(page.getByRole("listitem").locator("span"), "<b>bread");
});

example("dashboard", async ({ open }) => {
  const page = await open();
  await shows(page.getByRole("status"), "live");
  await shows(page.locator("#connections"), "1");
  await open();
  await shows(page.locator("#connections"), "2");
  assert.match(await page.locator("#line").getAttribute("points"), /^\d/);
});

example("two-nodes", async ({ open, origins }) => {
  const tabs = [await open(origins[0]), await open(origins[1])];
  for (const page of tabs) await shows(page.getByRole("status"), "Open pages: 2, on 2 nodes.");
  await tabs[0].getByRole("textbox").fill("across");
  await tabs[0].keyboard.press("Enter");
  for (const page of tabs) await page.getByRole("log").getByText("across").waitFor();
}, { nodes: 2, redis: true });

example("embed-in-axum", async ({ open }) => {
  const first = await open();
  await first.getByLabel("Your name").fill("ada");
  await first.getByRole("button", { name: "Log in" }).click();
  const tabs = [first, await open()];
  for (const page of tabs) await shows(page.getByRole("status"), "You are ada.");
  await first.getByRole("button", { name: "Order" }).click();
  for (const page of tabs) await shows(page.getByRole("log").locator("li").first(), "Your order is ready.");
});
