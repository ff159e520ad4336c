// The starter, copied as its README says, in two tabs: notes, a template that is edited, a server that starts again.

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

// Building it may take as long as everything it depends on, where nothing is built yet.
const BUILD = 20 * 60_000;
const WORKSPACE = fileURLToPath(new URL("..", import.meta.url));
// What the workspace has built is used again. The copy is the one of examples/tests/run/starter.rs, since cargo takes two of the
// same name for one; and it stays where it is, so that little has to be built twice.
const TARGET = dirname(dirname(BINARY));
const COPY = join(TARGET, "tmp", "starter");

let browser;
before(async () => (browser = await launch()));
after(() => browser?.close());

// Makes `to` what `from` is. A file that is the same already is left alone, so that cargo does not build it again.
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

// Gives a file another text, at once: one who looks in between must not find it empty.
async function replace(path, text) {
  const next = join(COPY, "new"); // where nobody looks
  await writeFile(next, text);
  await rename(next, path);
}

async function copyAndBuild() {
  for (const part of ["src", "templates", "assets"]) await copyAll(join(WORKSPACE, "examples/starter", part), join(COPY, part));
  const manifest = await readFile(join(WORKSPACE, "examples/starter/Cargo.toml"), "utf8");
  assert.ok(manifest.includes('"../../ripplecast"'));
  await put(join(COPY, "Cargo.toml"), manifest.replace('"../../ripplecast"', JSON.stringify(join(WORKSPACE, "ripplecast"))));
  // The workspace's own versions, unless the copy has its own already.
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

  // A template is edited: the pages load themselves anew, and what is half-written stays.
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
  assert.ok(await field(pages[1]).evaluate((input) => input === document.activeElement), "the focus is lost");

  // A restart: the pages come back by themselves, with what was there, and work on.
  for (const tab of tabs) tab.mayBeOffline = true;
  for (const page of pages) await page.evaluate(() => (window.isOld = true));
  await kill();
  for (const page of pages) await shows(state(page), "The connection is lost; trying again …");
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
