// Starts the real binary and a real Chromium, records problems in the pages, and stops everything it started.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const BINARY = process.env.RIPPLECAST_BIN ?? fileURLToPath(new URL("../target/debug/ripplecast", import.meta.url));
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

export const LESSON = "/learn/websocket";

// Generous: waits may be long on a busy machine, and a wait that succeeds early costs nothing.
export const PATIENCE = 60_000;

const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

// Starts `ripplecast` and resolves when it has printed its address. Port 0 lets the system choose.
export async function startServer(port = 0, command = []) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("RIPPLECAST_")));
  const child = spawn(BINARY, [...command, "--port", `${port}`], { env, stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  const gone = new Promise((resolve) => {
    child.once("exit", resolve);
    child.once("error", resolve);
  }).then(() => running.delete(child));

  let output = "";
  const origin = await new Promise((resolve, reject) => {
    const fail = (why) => reject(new Error(`${BINARY} ${why}. Its output:\n${output}`));
    child.once("error", (error) => fail(`did not start: ${error.message}`));
    child.once("exit", (code, signal) => fail(`exited with ${signal ?? code}`));
    const timer = setTimeout(fail, PATIENCE, "did not print an address");
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        output += `${line}\n`;
        const address = /http:\/\/127\.0\.0\.1:\d+/.exec(line);
        if (!address) return;
        clearTimeout(timer);
        resolve(address[0]);
      });
    }
    gone.then(() => clearTimeout(timer));
  });

  return {
    origin,
    port: Number(new URL(origin).port),
    async kill() {
      child.kill("SIGKILL");
      await gone;
    },
  };
}

export function launch(options = {}) {
  return chromium.launch({
    executablePath: CHROMIUM,
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
    ...options,
  });
}

// Opens a page and records everything in it that should not happen.
export async function openTab(context, origin, path = LESSON) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const tab = {
    page,
    problems: [],
    mayBeOffline: false, // while the server is down on purpose, failed connections are not problems
    value: page.getByRole("status"),
    bump: page.getByRole("button", { name: "+1", exact: true }),
    reset: page.getByRole("button", { name: "Reset", exact: true }),
    state: page.locator("#counter [aria-live=polite]"),
    tabs: page.locator("#tabs"),
    rtt: page.locator("#rtt"),
  };
  const note = (problem) => tab.problems.push(problem);
  const foreign = (url) => new URL(url).host !== new URL(origin).host && !/^(data|blob|about):/.test(url);

  page.on("pageerror", (error) => note(`uncaught: ${error}`));
  page.on("request", (request) => foreign(request.url()) && note(`request left the origin: ${request.url()}`));
  page.on("websocket", (socket) => foreign(socket.url()) && note(`socket left the origin: ${socket.url()}`));
  page.on("response", (response) => {
    if (response.status() >= 400 && !response.url().endsWith(path)) note(`${response.status()} ${response.url()}`);
  });
  page.on("console", (message) => {
    if (!["error", "warning"].includes(message.type())) return;
    const offline = /WebSocket connection to .* failed|net::ERR_(CONNECTION|EMPTY|SOCKET|INTERNET|NETWORK|INCOMPLETE)/.test(message.text());
    if (tab.mayBeOffline && offline) return;
    note(`console ${message.type()}: ${message.text()} (${message.location().url})`);
  });
  await page.exposeBinding("__violation", (_, text) => note(`Content-Security-Policy: ${text}`));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => {
      window.__violation(`${event.violatedDirective} blocked ${event.blockedURI || "inline code"}`);
    });
  });
  await page.goto(origin + path);
  return tab;
}

// Waits until the whole text of an element matches `expected`.
export async function shows(locator, expected) {
  const whole = expected instanceof RegExp ? expected : new RegExp(`^${String(expected).replace(/[^\w\s]/g, "\\$&")}$`);
  try {
    await locator.filter({ hasText: whole }).waitFor({ timeout: PATIENCE });
  } catch (error) {
    const text = await locator.textContent({ timeout: 1000 }).catch(() => "(element not found)");
    throw new Error(`waited for ${whole}, but it shows ${JSON.stringify(text)}`, { cause: error });
  }
}

// Records everything that an element shows from now on, however briefly. The returned function waits for a text to
// appear.
export async function notes(locator) {
  const said = await locator.evaluateHandle((element) => {
    const said = [element.textContent];
    new MutationObserver(() => said.push(element.textContent)).observe(element, { childList: true, characterData: true, subtree: true });
    return said;
  });
  return (text) => locator.page().waitForFunction(([said, text]) => said.includes(text), [said, text], { timeout: PATIENCE });
}

export async function counterValue(origin) {
  const response = await fetch(`${origin}/api/counter`);
  assert.equal(response.status, 200);
  return (await response.json()).value;
}
