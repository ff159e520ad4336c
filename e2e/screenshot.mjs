// Takes the screenshots of the documentation. Usage: `node screenshot.mjs FOLDER`

import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { LESSON, launch, openTab, PATIENCE, shows, startServer } from "./lib.mjs";

const folder = process.argv[2];
if (!folder) {
  console.error("usage: node screenshot.mjs FOLDER");
  process.exit(2);
}

const VALUE = 42;
const COUNTER = { width: 600, height: 830 };
const WIDE = { width: 880, height: 640 };
const NARROW = { width: 320, height: 640 };
const SCHEMES = [["light", ""], ["dark", "-dark"]];

const state = (page) => page.locator("#connection");

// Measures the round trip again now that the browser is idle: a tab pings when it becomes visible.
async function measured(page) {
  await page.evaluate(() => {
    document.getElementById("rtt").textContent = "";
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await shows(page.locator("#rtt"), /ms$/);
}

// The other pages: their paths, and how to prepare them. Each picture has a wide window in its own color scheme, and a
// narrow one in the other.
const PAGES = [
  { name: "lesson", path: LESSON, prepare: lesson },
  { name: "chat", path: "/demos/chat", prepare: chat },
  { name: "dashboard", path: "/demos/dashboard", prepare: async (page) => shows(page.locator("#memory"), /MiB$/) },
  { name: "notifications", path: "/demos/notifications", prepare: notifications },
  { name: "cursors", path: "/demos/cursors", prepare: cursors },
  { name: "inspector", path: "/inspect", prepare: inspector, live: ".frames" },
];

async function lesson(_, __, pages) {
  if (pages.length > 1) for (const each of pages) await measured(each);
}

// A chat member sends a message while both windows watch that connection.
async function inspector(page, _, pages) {
  if (pages.length < 2) return;
  const talker = await page.context().newPage();
  await talker.goto(new URL("/demos/chat", page.url()).href);
  await chat(talker, "Eve", []);
  await talker.waitForTimeout(2000); // until no list contains the connection from before the rename
  for (const each of pages) {
    await each.locator("#connections tr", { hasText: "chat" }).getByRole("button").click({ timeout: PATIENCE });
    await each.locator("#frames-state", { hasText: "Watching" }).waitFor();
  }
  const box = talker.getByRole("textbox", { name: "Your message" });
  const heard = (each) => each.locator("#frames tr", { hasText: "Forty-two." }).count();
  while ((await heard(pages[0])) === 0 || (await heard(pages[1])) === 0) {
    await box.fill("Forty-two.");
    await box.press("Enter");
    await talker.getByRole("log", { name: "Messages" }).getByText("Forty-two.").last().waitFor();
    await talker.waitForTimeout(300); // the log updates five times a second
  }
}

// A new member does not see earlier messages, so both windows open first, and then the last one starts the chat.
async function chat(page, name, pages) {
  await shows(page.locator("[data-part=state]"), "connected");
  await page.getByLabel("Your name").fill(name);
  await page.getByRole("button", { name: "Join" }).click();
  await page.locator("[data-part=people]").getByText(`${name} (you)`).waitFor();
  if (pages.length < 2) return;
  for (const [at, text] of ["Is the number moving for you, too?", "It is. Press +1 again!", "Forty-two."].entries()) {
    const box = pages[at % 2].getByRole("textbox", { name: "Your message" });
    await box.fill(text);
    await box.press("Enter");
    for (const each of pages) await each.getByRole("log", { name: "Messages" }).getByText(text).waitFor();
  }
}

async function notifications(page, _, pages) {
  await shows(state(page), "connected");
  if (pages.length < 2) return;
  for (const text of ["The bread is ready", "Table four wants to pay", "It snows"]) {
    await page.getByRole("textbox").fill(text);
    await page.getByRole("textbox").press("Enter");
    for (const each of pages) await each.locator("#notifications").getByText(text).waitFor();
  }
}

async function cursors(page, _, pages) {
  await shows(state(page), "connected");
  if (pages.length < 2) return;
  for (const [at, each] of pages.entries()) {
    const board = each.locator("#board");
    await board.evaluate((live) => live.scrollIntoView({ block: "center" }));
    const { x, y, width, height } = await board.boundingBox();
    for (const step of [0, 0.1]) await each.mouse.move(x + width * (0.25 + 0.3 * at + step), y + height * (0.3 + 0.2 * at + step));
  }
  for (const each of pages) await shows(each.locator("#pointers"), "2");
}

// Composes window frames on a plain background. This page is generated here, so its style may be inline.
async function picture(context, colorScheme, windows, file) {
  const frame = ({ image, size, path, scheme }) => `
    <figure class="${scheme}" style="width: ${size.width}px">
      <figcaption><i></i><i></i><i></i><span>${size.width < 500 ? "" : "127.0.0.1:8080"}${path}</span></figcaption>
      <img src="data:image/png;base64,${image.toString("base64")}" width="${size.width}" height="${size.height}">
    </figure>`;
  const html = `<!doctype html><style>
    body { margin: 0; padding: 24px; display: flex; gap: 24px; width: max-content; background: ${colorScheme === "dark" ? "#05090b" : "#dfe7ea"}; }
    figure { margin: 0; overflow: hidden; border-radius: 12px; box-shadow: 0 0 0 1px #c0ccd2; }
    figcaption { display: flex; align-items: center; gap: 7px; height: 38px; padding: 0 14px; background: #eef2f4;
      color: #4a5c66; font: 13px system-ui, "Liberation Sans", sans-serif; }
    i { width: 11px; height: 11px; border-radius: 50%; background: #c3ced3; }
    span { flex: 1; overflow: hidden; padding-right: 54px; text-align: center; text-overflow: ellipsis; white-space: nowrap; }
    img { display: block; }
    .dark { box-shadow: 0 0 0 1px #2a3a42; }
    .dark figcaption { background: #1b2a31; color: #a3b5bd; }
    .dark i { background: #3a4d56; }
  </style>${windows.map(frame).join("")}`;
  const page = await context.newPage();
  const width = windows.reduce((sum, { size }) => sum + size.width + 24, 24);
  await page.setViewportSize({ width, height: windows[0].size.height + 86 });
  await page.setContent(html);
  const path = join(folder, file);
  await page.screenshot({ path });
  await page.close();
  console.log(resolve(path));
}

// The picture in the README: two tabs, one number.
async function counter(browser, server, colorScheme, file) {
  const context = await browser.newContext({ colorScheme, viewport: COUNTER, reducedMotion: "reduce" });
  const tabs = [await openTab(context, server.origin), await openTab(context, server.origin)];
  for (const tab of tabs) await shows(tab.tabs, "2");
  await tabs[0].page.bringToFront(); // a background tab renders, and handles clicks, only about once a second
  await tabs[0].reset.click();
  for (let i = 0; i < VALUE; i++) await tabs[0].bump.click();
  const windows = [];
  for (const tab of tabs) {
    await shows(tab.value, VALUE);
    await tab.page.mouse.move(0, 0);
    await measured(tab.page);
    windows.push({ image: await tab.page.screenshot(), size: COUNTER, path: LESSON, scheme: colorScheme });
  }
  await picture(context, colorScheme, windows, file);
  await context.close();
}

// One page in a wide window in this color scheme, and in a narrow window in the other.
async function page(browser, server, { path, prepare, live = ".panel, .inspect, .figures, #counter" }, colorScheme, file) {
  const other = colorScheme === "dark" ? "light" : "dark";
  const contexts = [];
  const pages = [];
  for (const [scheme, size, who] of [[colorScheme, WIDE, "Ada"], [other, NARROW, "Bob"]]) {
    const context = await browser.newContext({ colorScheme: scheme, viewport: size, reducedMotion: "reduce" });
    contexts.push(context);
    const { page } = await openTab(context, server.origin, path);
    pages.push(page);
    await prepare(page, who, pages);
  }
  const windows = [];
  for (const [at, page] of pages.entries()) {
    // Frame the live part, not the text about it.
    await page.locator(live).first().evaluate((live) => live.scrollIntoView({ block: live.clientHeight > innerHeight ? "start" : "center" }));
    windows.push({ image: await page.screenshot(), size: [WIDE, NARROW][at], path, scheme: [colorScheme, other][at] });
  }
  await picture(contexts[0], colorScheme, windows, file);
  for (const context of contexts) await context.close();
}

await mkdir(folder, { recursive: true });
const server = await startServer();
const browser = await launch();
try {
  for (const [colorScheme, suffix] of SCHEMES) {
    await counter(browser, server, colorScheme, `counter${suffix}.png`);
    for (const each of PAGES) await page(browser, server, each, colorScheme, `${each.name}${suffix}.png`);
  }
} finally {
  await browser.close();
  await server.kill();
}
