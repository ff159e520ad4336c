// The starter, copied as its README describes, in two tabs: notes, an edited template and a restarted server.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { launch, openTab, PATIENCE, shows } from "./lib.mjs";
import { BINARY, looksRight, start } from "./program.mjs";

// A first build may also have to build every dependency.
const BUILD = 20 * 60_000;
const WORKSPACE = fileURLToPath(new URL("..", import.meta.url));
// Reuse the workspace's build. The copy is at the same place as in examples/tests/run/starter.rs, because cargo
// confuses two packages of the same name. It stays there, so that little has to be rebuilt.
const TARGET = dirname(dirname(BINARY));
const COPY = join(TARGET, "tmp", "starter");

let browser;
before(async () => (browser = await launch()));
after(() => browser?.close());

// Makes `to` a copy of `from`. Leaves identical files untouched, so that cargo does not rebuild them.
async function copyAll(from, to) {
  await mkdir(to, { recursive: true });
  const entries = await readdir(from, { withFileTypes: true });
  for (const name of await readdir(to)) if (!entries.some((entry) => entry.name === name)) await rm(join(to, name), { recursive: true });
  for (const entry of entries) {
    const [source, copy] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory()) await copyAll(source, copy);
    else await put(copy, await readFile(source, "utf8"));
  }
}

async function put(path, text) {
  const former = await readFile(path, "utf8").catch(() => null);
  if (former !== text) await writeFile(path, text);
}

// Replaces a file atomically: a reader must never find it empty.
async function replace(path, text) {
  const next = join(COPY, "new"); // not a watched path
  await writeFile(next, text);
  await rename(next, path);
}

async function copyAndBuild() {
  for (const part of ["src", "templates", "assets"]) await copyAll(join(WORKSPACE, "examples/starter", part), join(COPY, part));
  const manifest = await readFile(join(WORKSPACE, "examples/starter/Cargo.toml"), "utf8");
  assert.ok(manifest.includes('"../../ripplecast"'));
  await put(join(COPY, "Cargo.toml"), manifest.replace('"../../ripplecast"', JSON.stringify(join(WORKSPACE, "ripplecast"))));
  // Use the workspace's dependency versions, unless the copy already has its own lock file.
  if (!existsSync(join(COPY, "Cargo.lock"))) await copyFile(join(WORKSPACE, "Cargo.lock"), join(COPY, "Cargo.lock"));
  const cargo = spawn("cargo", ["build", "--quiet"], { cwd: COPY, env: { ...process.env, CARGO_TARGET_DIR: TARGET }, stdio: ["ignore", "inherit", "inherit"] });
  const [code] = await once(cargo, "exit");
  assert.equal(code, 0, "the starter does not build");
}

test("the starter: notes, an edited template, a restart", { timeout: BUILD + 4 * PATIENCE }, async (t) => {
  await copyAndBuild();
  const data = await mkdtemp(join(tmpdir(), "ripplecast-starter-"));
  t.after(() => rm(data, { recursive: true, force: true }));
  const run = (listen) => start(t, join(TARGET, "debug/starter"), [], 1, { cwd: COPY, env: { LISTEN: listen, DATA: data } });
  const { origins: [origin], kill } = await run("127.0.0.1:0");
  const context = await browser.newContext({ viewport: { width: 320, height: 640 } });
  t.after(() => context.close());
  const tabs = [await openTab(context, origin, "/"), await openTab(context, origin, "/")];
  const pages = tabs.map(({ page }) => page);
  const state = (page) => page.getByRole("status");
  const field = (page) => page.getByLabel("A note");
  const notes = (page) => page.getByRole("list", { name: "Notes" }).getByRole("listitem").locator("span");
  for (const page of pages) await shows(state(page), "live");

  await field(pages[0]).fill("a <b>note");
  await pages[0].keyboard.press("Enter");
  for (const page of pages) await shows(notes(page), "a <b>note");
  await pages[1].getByRole("button", { name: "Like, 0 so far: a <b>note" }).click();
  const liked = (page) => page.getByRole("button", { name: "Like, 1 so far: a <b>note" });
  for (const page of pages) await liked(page).waitFor();

  // A template is edited: the pages reload themselves, and keep a half-written note.
  await field(pages[1]).fill("half a no");
  const template = join(COPY, "templates/board.html");
  const html = await readFile(template, "utf8");
  assert.ok(html.includes("<h1>Board</h1>"));
  t.after(() => replace(template, html));
  await replace(template, html.replace("<h1>Board</h1>", "<h1>Our board</h1>"));
  for (const page of pages) {
    await page.getByRole("heading", { name: "Our board" }).waitFor({ timeout: PATIENCE });
    await shows(state(page), "live");
    await shows(notes(page), "a <b>note");
  }
  assert.equal(await field(pages[1]).inputValue(), "half a no");
  assert.ok(await field(pages[1]).evaluate((input) => input === document.activeElement), "focus was lost");

  // After a restart, the pages reconnect by themselves, keep their content, and continue to work.
  for (const tab of tabs) tab.mayBeOffline = true;
  for (const page of pages) await page.evaluate(() => (window.isOld = true));
  await kill();
  for (const page of pages) await shows(state(page), "Connection lost. Reconnecting …");
  await run(new URL(origin).host);
  for (const page of pages) {
    await page.waitForFunction(() => !window.isOld, null, { timeout: PATIENCE });
    await shows(state(page), "live");
    await shows(notes(page), "a <b>note");
    await liked(page).waitFor();
  }
  await field(pages[1]).fill("another");
  await pages[1].keyboard.press("Enter");
  for (const page of pages) await shows(notes(page).first(), "another");
  await pages[0].getByRole("button", { name: "Remove: another" }).click();
  for (const page of pages) await shows(notes(page), "a <b>note");
  for (const page of pages) await looksRight(page);
  assert.deepEqual(tabs.flatMap(({ problems }) => problems), []);
});
