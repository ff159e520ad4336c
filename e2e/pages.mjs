// Checks that apply to every page.

import assert from "node:assert/strict";
import { audit, scenario } from "./scenario.mjs";

// Opens a page light and dark, narrow and wide: axe finds no problem, nothing overflows, nothing shifts. `ready` waits
// until the page is complete. With `grows`, the layout may shift, because tables grow. `command` holds the server's
// flags, and `status` is the expected response.
export function looks(path, ready, { grows = false, command = [], status = 200 } = {}) {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [320, 1280]) {
      scenario(`${[path, ...command].join(" ")}, ${colorScheme} at ${width} px: axe finds no problem, nothing overflows, nothing shifts`, async ({ start, newContext, open }) => {
        const { origin } = await start(0, command);
        const context = await newContext({ colorScheme, viewport: { width, height: 800 }, reducedMotion: "reduce" });
        const tab = await open(context, origin, path);
        const { page } = tab;
        await ready(page);
        allow(tab, status);
        await audit(page);
        const { shifts, overflow } = await page.evaluate(() => new Promise((resolve) => {
          const shifts = [];
          new PerformanceObserver((list) => shifts.push(...list.getEntries())).observe({ type: "layout-shift", buffered: true });
          requestAnimationFrame(() => requestAnimationFrame(() => resolve({
            shifts: shifts.flatMap((entry) => entry.sources.map(({ node }) => node?.id || node?.className || node?.nodeName)),
            overflow: document.documentElement.scrollWidth - innerWidth,
          })));
        }));
        if (!grows) assert.deepEqual(shifts, [], "the layout moved");
        assert.ok(overflow <= 0, `the page is ${overflow} px too wide`);
      });
    }
  }
}

// Ignores the status that Chromium itself logs when a page is rejected as expected.
export function allow(tab, status) {
  tab.problems = tab.problems.filter((problem) => !problem.includes(`status of ${status} `));
}

// Checks that each link of a page leads to an existing anchor or to a page that responds.
export async function followLinks(page, origin) {
  const links = await page.locator("a[href]").evaluateAll((all) => [...new Set(all.map((link) => link.href))]);
  assert.ok(links.length > 3, "a page without links");
  for (const link of links) {
    const url = new URL(link);
    assert.equal(url.origin, origin, `${link} leaves the site`);
    if (url.pathname === new URL(page.url()).pathname) {
      if (url.hash) assert.equal(await page.locator(`[id="${url.hash.slice(1)}"]`).count(), 1, link);
    } else {
      assert.equal((await fetch(url)).status, 200, link);
    }
  }
}
