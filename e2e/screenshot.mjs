// Takes the pictures of the README: two windows, one number. `node screenshot.mjs FOLDER`

import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { launch, openTab, shows, startServer } from "./lib.mjs";

const folder = process.argv[2];
if (!folder) {
  console.error("usage: node screenshot.mjs FOLDER");
  process.exit(2);
}

const VALUE = 42;
const WINDOW = { width: 600, height: 830 };

// Two window frames on a plain ground. This page is our own, so its style may be inline.
function picture(colorScheme, origin, images) {
  const dark = colorScheme === "dark";
  const frame = (image) => `
    <figure>
      <figcaption><i></i><i></i><i></i><span>${origin.replace("http://", "")}/learn/websocket</span></figcaption>
      <img src="data:image/png;base64,${image.toString("base64")}" width="${WINDOW.width}" height="${WINDOW.height}">
    </figure>`;
  return `<!doctype html><style>
    body { margin: 0; padding: 24px; display: flex; gap: 24px; width: max-content; background: ${dark ? "#05090b" : "#dfe7ea"}; }
    figure { margin: 0; overflow: hidden; border-radius: 12px; box-shadow: 0 0 0 1px ${dark ? "#2a3a42" : "#c0ccd2"}; }
    figcaption { display: flex; align-items: center; gap: 7px; height: 38px; padding: 0 14px; background: ${dark ? "#1b2a31" : "#eef2f4"};
      color: ${dark ? "#a3b5bd" : "#4a5c66"}; font: 13px system-ui, "Liberation Sans", sans-serif; }
    i { width: 11px; height: 11px; border-radius: 50%; background: ${dark ? "#3a4d56" : "#c3ced3"}; }
    span { margin: 0 auto; padding-right: 54px; }
    img { display: block; }
  </style>${images.map(frame).join("")}`;
}

await mkdir(folder, { recursive: true });
const server = await startServer();
const browser = await launch();
try {
  for (const [colorScheme, name] of [["light", "counter.png"], ["dark", "counter-dark.png"]]) {
    const context = await browser.newContext({ colorScheme, viewport: WINDOW, reducedMotion: "reduce" });
    const tabs = [await openTab(context, server.origin), await openTab(context, server.origin)];
    for (const tab of tabs) await shows(tab.tabs, "2");
    await tabs[0].page.bringToFront(); // a tab behind another draws, and is clicked, once a second or so
    await tabs[0].reset.click();
    for (let i = 0; i < VALUE; i++) await tabs[0].bump.click();
    const images = [];
    for (const tab of tabs) {
      await shows(tab.value, VALUE);
      await tab.page.mouse.move(0, 0);
      // Measure the round trip again now that nothing else is going on: a tab that comes to the front asks at once.
      await tab.page.evaluate(() => {
        document.getElementById("rtt").textContent = "";
        document.dispatchEvent(new Event("visibilitychange"));
      });
      await shows(tab.rtt, /ms$/);
      images.push(await tab.page.screenshot());
    }
    const page = await context.newPage();
    await page.setViewportSize({ width: 2 * WINDOW.width + 72, height: WINDOW.height + 86 });
    // The port is whichever was free; a reader will see the usual one.
    await page.setContent(picture(colorScheme, "http://127.0.0.1:8080", images));
    const path = join(folder, name);
    await page.screenshot({ path });
    console.log(resolve(path));
    await context.close();
  }
} finally {
  await browser.close();
  await server.kill();
}
