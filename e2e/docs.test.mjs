// The documentation in a real browser: it can be read anywhere, by anybody, with the keyboard alone.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import axe from "axe-core";
import { launch, openTab, startServer } from "./lib.mjs";

let browser, server;
before(async () => ([browser, server] = await Promise.all([launch(), startServer()])));
after(async () => {
  await browser?.close();
  await server?.kill();
});

// A test with a tab of its own, which also fails if anything untoward happened in it.
function reading(name, options, path, run) {
  // All pages in one test: some minutes where the machine is busy.
  test(name, { timeout: 600_000 }, async (t) => {
    const context = await browser.newContext(options);
    t.after(() => context.close());
    const tab = await openTab(context, server.origin, path);
    await run(tab.page);
    // Chromium itself reports the status of a page that is not there, where one was asked for.
    assert.deepEqual(tab.problems.filter((problem) => !/status of 404 .*\/docs\/none\)$/s.test(problem)), []);
  });
}

// The addresses of all documents, from their list.
async function documents() {
  const list = await (await fetch(`${server.origin}/docs`)).text();
  return [...new Set([...list.matchAll(/href="\.(\/docs\/[\w-]+)"/g)].map(([, path]) => path))];
}

async function audit(page) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => window.axe.run());
  assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]), [], page.url());
}

for (const [colorScheme, width] of [["light", 320], ["dark", 1400]]) {
  const options = { colorScheme, viewport: { width, height: 800 }, reducedMotion: "reduce" };
  reading(`${colorScheme} at ${width} px: axe finds nothing on any page, and none is too wide`, options, "/docs", async (page) => {
    const paths = await documents();
    assert.ok(paths.length > 20, `${paths.length} documents`);
    for (const path of ["/docs", ...paths]) {
      await page.goto(server.origin + path);
      assert.equal(await page.getByRole("heading", { level: 1 }).count(), 1, path);
      await audit(page);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(overflow <= 0, `${path} is ${overflow} px too wide`);
    }
  });
}

const clipboard = { permissions: ["clipboard-read", "clipboard-write"] };
reading("a listing is copied without the lines that only the compiler sees", clipboard, "/docs/state", async (page) => {
  await page.getByRole("button", { name: "Copy listing 1", exact: true }).click();
  await page.getByRole("button", { name: "Copied listing 1", exact: true }).waitFor();
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.match(copied, /hub\.counter\("likes"\)/);
  assert.doesNotMatch(copied, /^# |tokio::main/m);
});

reading("a link of the contents leads to its heading, the pager to the next page", { viewport: { width: 1400, height: 800 } }, "/docs/quick-start", async (page) => {
  await page.getByRole("navigation", { name: "On this page" }).getByRole("link", { name: "4. Change it" }).click();
  await page.waitForURL(/#4-change-it$/);
  assert.ok(await page.getByRole("heading", { name: "4. Change it" }).isVisible());
  await page.getByRole("navigation", { name: "Previous and next page" }).getByRole("link", { name: /^Next/ }).click();
  await page.waitForURL(/\/docs\/choosing$/);
  const current = await page.locator("a[aria-current=page]").evaluate((link) => new URL(link.href).pathname);
  assert.equal(current, "/docs/choosing");
});

reading("the keyboard alone leads from page to page", {}, "/docs/quick-start", async (page) => {
  const tabTo = async (name) => {
    for (let i = 0; i < 120; i++) {
      await page.keyboard.press("Tab");
      const [text, visible] = await page.evaluate(() => {
        const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
        return [document.activeElement.textContent.trim(), outlineStyle !== "none" && outlineWidth !== "0px"];
      });
      assert.ok(visible, `focus cannot be seen on ${text}`);
      if (text === name) return;
    }
    assert.fail(`Tab never came to ${name}`);
  };
  await tabTo("Skip to the content");
  await page.keyboard.press("Enter");
  await tabTo("Settings");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/docs\/settings$/);
});

reading("an unknown document shows the list of those that are there", {}, "/docs/none", async (page) => {
  assert.equal(await page.getByRole("heading", { level: 1 }).textContent(), "Page not found");
  await page.getByRole("link", { name: "Quick start", exact: true }).click();
  await page.waitForURL(/\/docs\/quick-start$/);
});

reading("pictures come, in the dark those for it, and nothing moves when they do", { colorScheme: "dark", viewport: { width: 800, height: 600 } }, "/docs/site", async (page) => {
  const heights = () => page.evaluate(() => [...document.images].map(({ height }) => height));
  const before = await heights();
  assert.ok(before.length > 4 && before.every((height) => height > 100), `${before}`);
  await page.evaluate(() => document.querySelectorAll("img").forEach((image) => (image.loading = "eager")));
  await page.waitForFunction(() => [...document.images].every((image) => image.complete && image.naturalWidth > 0));
  assert.deepEqual(await heights(), before);
  assert.ok(await page.evaluate(() => [...document.images].every((image) => image.currentSrc.includes("-dark.png"))));
});
