// The counter in two tabs of a real browser, against the real binary.

import assert from "node:assert/strict";
import { counterValue, LESSON, shows } from "./lib.mjs";
import { audit, scenario } from "./scenario.mjs";

scenario("the round trip is shown after the first ping", async ({ start, newContext }) => {
  const { origin } = await start();
  const page = await (await newContext()).newPage();
  let pings = 0;
  page.on("websocket", (socket) => socket.on("framesent", ({ payload }) => (pings += payload === "ping")));
  await page.addInitScript(() => (window.setTimeout = window.setInterval = () => 0)); // no other ping ever comes
  await page.goto(origin + LESSON);
  await shows(page.locator("#rtt"), /^\d+\.\d ms$/);
  assert.equal(pings, 1);
});

scenario("+1 and Reset in one tab update the other", async ({ start, two }) => {
  const { origin } = await start();
  const [a, b] = await two(origin);
  for (const tab of [a, b]) await shows(tab.value, "0");

  await a.bump.click();
  for (const tab of [b, a]) await shows(tab.value, "1");
  await b.bump.click();
  for (const tab of [a, b]) await shows(tab.value, "2");
  assert.equal(await counterValue(origin), 2);

  await b.reset.click();
  for (const tab of [a, b]) await shows(tab.value, "0");
  assert.equal(await counterValue(origin), 0);
});

scenario("everything works under a path prefix, and every request stays below it", async ({ start, two }) => {
  const { origin } = await start(0, ["--base-path", "/rt"]);
  const [a, b] = await two(`${origin}/rt`);
  const paths = [];
  for (const { page } of [a, b]) {
    page.on("request", (request) => paths.push(new URL(request.url()).pathname));
    page.on("websocket", (socket) => paths.push(new URL(socket.url()).pathname));
  }
  await shows(a.value, "0");
  await a.bump.click();
  for (const tab of [a, b]) await shows(tab.value, "1");
  await a.page.reload();
  await shows(a.value, "1");
  await shows(a.page.locator("[data-origin]").first(), `${origin}/rt`);
  await a.page.getByRole("link", { name: "Docs" }).click();
  await a.page.getByRole("heading", { name: "Documentation" }).waitFor();
  assert.ok(paths.some((path) => path === "/rt/ws/counter-demo"), `no socket in ${paths}`);
  assert.deepEqual(paths.filter((path) => !path.startsWith("/rt/")), []);
});

scenario("a tab that opens later shows the current value immediately", async ({ start, two, newContext, open }) => {
  const { origin } = await start();
  const [a] = await two(origin);
  for (let i = 0; i < 3; i++) await a.bump.click();
  await shows(a.value, "3");
  const late = await open(await newContext(), origin);
  await shows(late.value, "3");
});

scenario("the page shows the number of open tabs and the round-trip time", async ({ start, two }) => {
  const { origin } = await start();
  const [a, b] = await two(origin);
  for (const tab of [a, b]) {
    await shows(tab.tabs, "2");
    await shows(tab.rtt, /^\d+\.\d ms$/);
  }
  await b.page.close();
  await shows(a.tabs, "1");
});

scenario("a tab that navigates away is not counted, and counts again when it returns", async ({ start, two }) => {
  const { origin } = await start();
  const [a, b] = await two(origin);
  await shows(a.tabs, "2");
  await b.page.goto("about:blank");
  await shows(a.tabs, "1");
  await a.bump.click();
  await shows(a.value, "1");
  await b.page.goBack();
  await shows(b.value, "1");
  await shows(a.tabs, "2");
});

scenario("thirty quick clicks in each of two tabs add up to sixty", async ({ start, two }) => {
  const { origin } = await start();
  const pair = await two(origin);
  for (const { page } of pair) {
    await page.evaluate(() => {
      const value = document.querySelector("[role=status]");
      window.seen = [];
      new MutationObserver(() => window.seen.push(Number(value.textContent))).observe(value, { childList: true });
    });
  }
  await Promise.all(pair.map(async (tab) => {
    for (let i = 0; i < 30; i++) await tab.bump.click({ noWaitAfter: true });
  }));
  for (const tab of pair) await shows(tab.value, "60");
  for (const { page } of pair) {
    const seen = await page.evaluate(() => window.seen);
    assert.deepEqual(seen, seen.toSorted((x, y) => x - y), "a value went backwards");
  }
  assert.equal(await counterValue(origin), 60);
});

scenario("both tabs notice a killed server, then reconnect and agree after its restart", async ({ start, two }) => {
  const first = await start();
  const pair = await two(first.origin);
  const [a, b] = pair;
  await a.bump.click();
  for (const tab of pair) await shows(tab.value, "1");

  for (const tab of pair) tab.mayBeOffline = true;
  await first.kill();
  for (const tab of pair) await shows(tab.state, /^reconnecting in \d+ s$/);

  await a.bump.click();
  await shows(a.state, /\+1 failed: no connection$/);
  await audit(a.page);

  const second = await start(first.port);
  for (const tab of pair) await shows(tab.state, "connected");
  const value = await counterValue(second.origin);
  for (const tab of pair) await shows(tab.value, value);

  await b.bump.click();
  for (const tab of pair) await shows(tab.value, value + 1);
  for (const tab of pair) await shows(tab.tabs, "2");
});

scenario("going online ends the wait immediately", async ({ start, newContext, open }) => {
  const first = await start();
  const tab = await open(await newContext(), first.origin);
  await shows(tab.state, "connected");
  tab.mayBeOffline = true;
  // With the longest random wait each time, the countdown soon exceeds what this test would wait for.
  await tab.page.evaluate(() => (Math.random = () => 0.999));
  await first.kill();
  await shows(tab.state, /^reconnecting in (8|16|32) s$/);
  await start(first.port);
  // Clears all timers, so that the wait can no longer end by itself.
  await tab.page.evaluate(() => {
    for (let last = setTimeout(() => {}); last > 0; last--) clearTimeout(last);
    dispatchEvent(new Event("online"));
  });
  await shows(tab.state, "connected");
});

scenario("a silent connection is replaced within 45 s", async ({ start, newContext, open }) => {
  const { origin } = await start();
  const context = await newContext();
  let mute = false;
  let sockets = 0;
  // The socket stays open, but nothing gets through any more: this is how a lost network looks from a tab.
  await context.routeWebSocket(/\/ws\/counter-demo\?/, (client) => {
    sockets += 1;
    const number = sockets;
    const server = client.connectToServer();
    const through = () => !(mute && number === 1);
    client.onMessage((message) => through() && server.send(message));
    server.onMessage((message) => through() && client.send(message));
  });
  await context.clock.install();
  const tab = await open(context, origin);
  await shows(tab.state, "connected");
  await shows(tab.rtt, /ms$/);

  mute = true;
  assert.equal((await fetch(`${origin}/api/counter/bump`, { method: "POST" })).status, 200);
  for (let passed = 0; sockets < 2 && passed < 45; passed++) await context.clock.runFor(1000);
  assert.equal(sockets, 2, "the dead connection was kept");
  await shows(tab.value, "1");
  await shows(tab.state, "connected");
});

scenario("the page works with the keyboard alone", async ({ start, two }) => {
  const { origin } = await start();
  const [{ page, value }] = await two(origin);
  const focused = () => page.evaluate(() => {
    const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
    return { text: document.activeElement.textContent.trim(), visible: outlineStyle !== "none" && outlineWidth !== "0px" };
  });
  const tabTo = async (name) => {
    for (let i = 0; i < 20; i++) {
      await page.keyboard.press("Tab");
      const { text, visible } = await focused();
      assert.ok(visible, `focus is not visible on ${text}`);
      if (text === name) return;
    }
    assert.fail(`Tab never reached ${name}`);
  };

  await tabTo("Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await tabTo("+1");
  await page.keyboard.press("Enter");
  await shows(value, "1");
  await page.keyboard.press("Space");
  await shows(value, "2");
  await tabTo("Reset");
  await page.keyboard.press("Enter");
  await shows(value, "0");
});

scenario("the page shows its own source and copies it to the clipboard", async ({ start, newContext, open }) => {
  const { origin } = await start();
  const context = await newContext({ permissions: ["clipboard-read", "clipboard-write"] });
  const { page } = await open(context, origin);
  const script = await (await fetch(`${origin}/assets/counter.js`)).text();
  assert.equal(await page.locator("#browser-code").textContent(), script);

  await page.getByRole("button", { name: "Copy counter.js" }).click();
  await page.getByRole("button", { name: "Copied counter.js" }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), script);
  await page.getByRole("button", { name: "Copy counter.rs" }).click();
  await page.getByRole("button", { name: "Copied counter.rs" }).waitFor();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /on_close/);

  // Each callback's link points to the line where the callback begins.
  for (const callback of ["open", "message", "close"]) {
    const link = page.locator(`h4:text-is("${callback[0].toUpperCase()}${callback.slice(1)}") ~ p a`).first();
    const line = await page.locator(await link.getAttribute("href")).textContent();
    assert.match(line, new RegExp(`on_${callback}`));
  }
});

scenario("the page has one title, one status, one live region, and landmarks", async ({ start, newContext, open }) => {
  const { origin } = await start();
  const { page } = await open(await newContext(), `${origin}`);
  assert.equal(new URL(page.url()).pathname, LESSON);
  assert.equal(await page.title(), "Real-Time Sync");
  assert.equal(await page.getByRole("heading", { level: 1 }).textContent(), "Real-Time Sync");
  assert.equal(await page.getByRole("status").count(), 1);
  assert.equal(await page.locator("#counter [aria-live]").count(), 1);
  for (const [landmark, count] of Object.entries({ banner: 1, main: 1, contentinfo: 1, navigation: 2 })) {
    assert.equal(await page.getByRole(landmark).count(), count, landmark);
  }
});

scenario("/ redirects to the lesson, and an unknown path shows a helpful page", async ({ start, newContext, open }) => {
  const { origin } = await start();
  const context = await newContext();
  const home = await open(context, origin, "/");
  assert.equal(home.page.url(), origin + LESSON);

  const lost = await open(context, origin, "/no/such/page");
  await audit(lost.page);
  await lost.page.getByRole("link", { name: "Go to the live counter" }).click();
  await shows(lost.state, "connected");
  // Chromium itself logs the 404 status of the requested page, some time after the response.
  lost.problems = lost.problems.filter((problem) => !/status of 404 .*\/no\/such\/page\)$/s.test(problem));
});

for (const colorScheme of ["light", "dark"]) {
  for (const width of [320, 1280]) {
    scenario(`${colorScheme} at ${width} px: axe finds no problem, nothing overflows, nothing shifts`, async ({ start, newContext, open }) => {
      const { origin } = await start();
      const context = await newContext({ colorScheme, viewport: { width, height: 800 }, reducedMotion: "reduce" });
      const { page, state, rtt } = await open(context, origin);
      await shows(state, "connected");
      await shows(rtt, /ms$/);

      await audit(page);

      const found = await page.evaluate(() => new Promise((resolve) => {
        const shifts = [];
        new PerformanceObserver((list) => shifts.push(...list.getEntries())).observe({ type: "layout-shift", buffered: true });
        requestAnimationFrame(() => requestAnimationFrame(() => resolve({
          shifts: shifts.flatMap((entry) => entry.sources.map(({ node, previousRect, currentRect }) => [
            node?.id || node?.parentElement?.id || node?.className,
            JSON.stringify([previousRect, currentRect]),
          ])),
          overflow: document.documentElement.scrollWidth - innerWidth,
          background: getComputedStyle(document.body).backgroundColor,
        })));
      }));
      assert.deepEqual(found.shifts, [], "the layout moved");
      assert.ok(found.overflow <= 0, `the page is ${found.overflow} px too wide`);
      const brightness = found.background.match(/\d+/g).map(Number).reduce((sum, part) => sum + part, 0) / 3;
      assert.ok(colorScheme === "light" ? brightness > 200 : brightness < 60, found.background);
    });
  }
}
