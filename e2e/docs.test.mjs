// The documentation in a real browser: readable at every width, accessible, and usable with the
// keyboard alone.

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

// A test with its own tab, which also fails if the tab recorded a problem.
function reading(name, options, path, run) {
  // One test covers all pages, which takes minutes on a busy machine.
  test(name, { timeout: 600_000 }, async (t) => {
    const context = await browser.newContext(options);
    t.after(() => context.close());
    const tab = await openTab(context, server.origin, path);
    await run(tab.page);
    // Chromium itself logs the 404 status of a missing page that was requested on purpose.
    assert.deepEqual(tab.problems.filter((problem) => !/status of 404 .*\/docs\/none\)$/s.test(problem)), []);
  });
}

// Returns the addresses of all documents, from the index.
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
  reading(`${colorScheme} at ${width} px: axe finds no problem on any page, and none overflows`, options, "/docs", async (page) => {
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
reading("a listing is copied without its hidden lines", clipboard, "/docs/state", async (page) => {
  await page.getByRole("button", { name: "Copy listing 1", exact: true }).click();
  await page.getByRole("button", { name: "Copied listing 1", exact: true }).waitFor();
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.match(copied, /hub\.counter\("likes"\)/);
  assert.doesNotMatch(copied, /^# |tokio::main/m);
});

reading("the table of contents links to its headings, and the pager to the next page", { viewport: { width: 1400, height: 800 } }, "/docs/quick-start", async (page) => {
  await page.getByRole("navigation", { name: "On this page" }).getByRole("link", { name: "4. Change it" }).click();
  await page.waitForURL(/#4-change-it$/);
  assert.ok(await page.getByRole("heading", { name: "4. Change it" }).isVisible());
  await page.getByRole("navigation", { name: "Previous and next page" }).getByRole("link", { name: /^Next/ }).click();
  await page.waitForURL(/\/docs\/choosing$/);
  const current = await page.locator("a[aria-current=page]").evaluate((link) => new URL(link.href).pathname);
  assert.equal(current, "/docs/choosing");
});

reading("pages can be reached with the keyboard alone", {}, "/docs/quick-start", async (page) => {
  const tabTo = async (name) => {
    for (let i = 0; i < 120; i++) {
      await page.keyboard.press("Tab");
      const [text, visible] = await page.evaluate(() => {
        const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
        return [document.activeElement.textContent.trim(), outlineStyle !== "none" && outlineWidth !== "0px"];
      });
      assert.ok(visible, `focus is not visible on ${text}`);
      if (text === name) return;
    }
    assert.fail(`Tab never reached ${name}`);
  };
  await tabTo("Skip to the content");
  await page.keyboard.press("Enter");
  await tabTo("Settings");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/docs\/settings$/);
});

reading("an unknown document shows the list of all documents", {}, "/docs/none", async (page) => {
  assert.equal(await page.getByRole("heading", { level: 1 }).textContent(), "Page not found");
  await page.getByRole("link", { name: "Quick start", exact: true }).click();
  await page.waitForURL(/\/docs\/quick-start$/);
});

reading("pictures load, in a dark variant for dark mode, without shifting the layout", { colorScheme: "dark", viewport: { width: 800, height: 600 } }, "/docs/site", async (page) => {
  const heights = () => page.evaluate(() => [...document.images].map(({ height }) => height));
  const before = await heights();
  assert.ok(before.length > 4 && before.every((height) => height > 100), `${before}`);
  await page.evaluate(() => document.querySelectorAll("img").forEach((image) => (image.loading = "eager")));
  await page.waitForFunction(() => [...document.images].every((image) => image.complete && image.naturalWidth > 0));
  assert.deepEqual(await heights(), before);
  assert.ok(await page.evaluate(() => [...document.images].every((image) => image.currentSrc.includes("-dark.png"))));
});
