// The layout of every page, from a phone to a large screen, with a wide and a narrow font.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { LESSON, launch, openTab, PATIENCE, startServer } from "./lib.mjs";
import { faults } from "./measure.mjs";

const WIDTHS = [360, 768, 1024, 1280, 1920];
// Both are installed by `cargo xtask test`. "Liberation Sans Narrow" comes with some versions of the second.
const FONTS = { wide: '"DejaVu Sans"', narrow: '"Liberation Sans Narrow", "Liberation Sans"' };
// Enough for every kind of page at once, on two cores.
const TABS = 2;

let browser, server, closed;
before(async () => ([browser, server, closed] = await Promise.all([launch(), startServer(), startServer(0, ["--trusted-proxies", "loopback", "--inspect-token", "0123456789abcdef"])])));
after(async () => {
  await browser?.close();
  await Promise.all([server?.kill(), closed?.kill()]);
});

const connected = (page) => page.locator("[data-state=connected]").first().waitFor();

// Returns every page: its address, and how to wait until it is complete.
async function pages() {
  const list = async (path, links) => [...new Set([...(await (await fetch(server.origin + path)).text()).matchAll(links)].map(([, path]) => path))];
  const docs = await list("/docs", /href="\.(\/docs\/[\w-]+)"/g);
  const demos = await list("/demos", /href="\.(\/demos\/[\w-]+)"/g);
  assert.ok(docs.length > 20 && demos.length > 3, `${docs.length} documents and ${demos.length} demos`);
  return [
    { path: LESSON, ready: connected },
    ...demos.map((path) => ({ path, ready: connected })),
    { path: "/inspect", ready: (page) => page.locator("#connections tr").first().waitFor() },
    { path: "/demos" },
    { path: "/docs" },
    ...docs.map((path) => ({ path })),
    { path: "/learn/search?q=push" },
    { path: "/none", status: 404 },
    { path: "/docs/none", status: 404 },
    { path: "/inspect", origin: closed.origin, status: 401 },
  ];
}

// Checks that the fonts are installed: a missing one would be replaced silently.
async function fontsDiffer(context) {
  const page = await context.newPage();
  const widths = await page.evaluate((families) => families.map((family) => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.font = `100px ${family}, monospace`;
    return canvas.measureText("Notifications").width;
  }), Object.values(FONTS));
  await page.close();
  assert.ok(widths[0] > 1.08 * widths[1], `the wide font is not wider (${widths}); install fonts-dejavu-core and fonts-liberation`);
}

// Measures a page in every size and font. Returns what is wrong.
async function measure(tab, { path, origin = server.origin, ready }) {
  const { page } = tab;
  await page.setViewportSize({ width: WIDTHS[0], height: 900 });
  await page.goto(origin + path);
  await ready?.(page);
  const wrong = [];
  for (const [font, family] of Object.entries(FONTS)) {
    await page.evaluate((family) => document.documentElement.style.setProperty("--sans", family), family);
    for (const width of WIDTHS) {
      await page.setViewportSize({ width, height: 900 });
      for (const fault of await page.evaluate(faults)) wrong.push(`${path} at ${width} px, ${font}: ${fault}`);
    }
  }
  return wrong;
}

test("no text leaves its box or is covered, and only tables and code scroll sideways, on any page", { timeout: 600_000 }, async (t) => {
  const context = await browser.newContext({ reducedMotion: "reduce" });
  t.after(() => context.close());
  const all = await pages();
  const wrong = [];
  await fontsDiffer(context);
  const work = async () => {
    const tab = await openTab(context, server.origin, "/none");
    for (let next; (next = all.shift()); ) wrong.push(...(await measure(tab, next)));
  };
  await Promise.all(Array.from({ length: TABS }, work));
  assert.deepEqual(wrong, []);
});
