// Each demo in two tabs of a real browser: its normal use, a server restart, and a lost network.

import assert from "node:assert/strict";
import { notes, shows } from "./lib.mjs";
import { allow, followLinks, looks } from "./pages.mjs";
import { audit, scenario } from "./scenario.mjs";

const chatState = (page) => page.locator("[data-part=state]");
const chatLog = (page) => page.getByRole("log", { name: "Messages" });
const state = (page) => page.locator("#connection");

async function say(page, text) {
  const box = page.getByRole("textbox", { name: "Your message" });
  await box.fill(text);
  await box.press("Enter");
}

// Opens two tabs of a demo, in separate windows.
async function pair({ start, newContext, open }, path, connection, command) {
  const server = await start(0, command);
  const contexts = [await newContext(), await newContext()];
  const tabs = [];
  for (const context of contexts) tabs.push(await open(context, server.origin, path));
  for (const { page } of tabs) await shows(connection(page), "connected");
  return { server, contexts, tabs, pages: tabs.map(({ page }) => page) };
}

scenario("the index lists the demos, and every link works", async ({ start, newContext, open }) => {
  const { origin } = await start();
  const { page } = await open(await newContext(), origin, "/demos");
  await followLinks(page, origin);
});

scenario("chat: messages, members and typing indicators reach the other tab", async (tools) => {
  const { tabs, pages: [a, b] } = await pair(tools, "/demos/chat", chatState);
  await a.getByLabel("Your name").fill("Ada");
  await a.getByRole("button", { name: "Join" }).click();
  await b.locator("[data-part=people]").getByText("Ada", { exact: true }).waitFor();
  await a.locator("[data-part=people]").getByText("Ada (you)").waitFor();
  await shows(b.locator("[data-part=count]"), "2");

  const typing = await notes(b.locator("[data-part=typing]")); // it is shown for only three seconds
  await a.getByRole("textbox", { name: "Your message" }).pressSequentially("hel");
  await typing("Ada is typing…");
  await say(a, "hello <b>all</b>");
  await shows(chatLog(b).locator("p").last(), "Ada: hello <b>all</b>");
  await shows(b.locator("[data-part=typing]"), "");
  await say(b, "hello Ada");
  await chatLog(a).getByText("hello Ada").waitFor();

  // Messages stay in their room.
  await b.getByLabel("Room", { exact: true }).fill("rust");
  await b.getByRole("button", { name: "Join" }).click();
  await shows(b.locator("[data-part=here]"), "rust");
  await shows(b.locator("[data-part=count]"), "1");
  await shows(a.locator("[data-part=count]"), "1");
  await say(a, "only here");
  await chatLog(a).getByText("only here").waitFor();
  await say(b, "only there");
  await chatLog(b).getByText("only there").waitFor();
  assert.equal(await chatLog(b).getByText("only here").count(), 0);
  await tabs[0].page.close();
});

scenario("chat: tabs recover from a server restart and a lost network", async (tools) => {
  const { server, contexts, tabs, pages: [a, b] } = await pair(tools, "/demos/chat", chatState);
  for (const tab of tabs) tab.mayBeOffline = true;
  await server.kill();
  for (const page of [a, b]) await shows(chatState(page), /^(re)?connecting/);
  await tools.start(server.port);
  for (const page of [a, b]) await shows(page.locator("[data-part=count]"), "2");
  await say(a, "still here?");
  await chatLog(b).getByText("still here?").waitFor();

  const mend = await tools.cut(contexts[1]);
  await shows(chatState(b), /^(re)?connecting/);
  await shows(a.locator("[data-part=count]"), "1");
  await say(b, "into the void");
  await shows(b.locator("[data-part=problem]"), "not sent: no connection");
  await mend();
  await shows(chatState(b), "connected");
  await shows(b.locator("[data-part=problem]"), "");
  await shows(a.locator("[data-part=count]"), "2");
  await say(b, "back again");
  await chatLog(a).getByText("back again").waitFor();
});

scenario("chat: works with the keyboard alone", async (tools) => {
  const { pages: [a, b] } = await pair(tools, "/demos/chat", chatState);
  for (let i = 0; i < 20 && (await a.evaluate(() => document.activeElement.id)) !== "chat-text"; i++) await a.keyboard.press("Tab");
  await a.keyboard.type("by hand");
  await a.keyboard.press("Enter");
  await chatLog(b).getByText("by hand").waitFor();
  assert.equal(await a.evaluate(() => document.activeElement.id), "chat-text", "the focus stays in the text field");
});

scenario("the rate limit is explained in words, and can be enforced on loopback", async (tools) => {
  const { pages: [a] } = await pair(tools, "/demos/chat", chatState, ["--demo-limits"]);
  // All at once, so that the limit does not refill in between.
  await a.evaluate(() => {
    for (let i = 0; i < 60; i++) {
      document.getElementById("chat-text").value = `number ${i}`;
      document.querySelector("[data-part=form]").requestSubmit();
    }
  });
  await a.locator("[data-part=problem]").getByText(/^Too many requests from your address; try again in \d+ seconds?\./).waitFor();
});

scenario("dashboard: counts this tab and the next", async (tools) => {
  const { server, contexts, tabs, pages: [a, b] } = await pair(tools, "/demos/dashboard", state);
  for (const page of [a, b]) await shows(page.locator("#connections"), "2");
  const third = await contexts[0].newPage();
  await third.goto(`${server.origin}/demos/dashboard`);
  for (const page of [a, b]) await shows(page.locator("#connections"), "3");
  await third.close();
  await shows(a.locator("#connections"), "2");
  // A new tab opens with what the server has kept.
  const points = (page) => page.locator("#connections-line").evaluate((line) => line.points.numberOfItems);
  await a.waitForFunction(() => document.getElementById("connections-line").points.numberOfItems > 4);
  const known = await points(a);
  await b.reload();
  await shows(b.locator("#connections"), "2");
  assert.ok((await points(b)) >= known - 1, "the graph started again");
  await shows(a.locator("#memory"), /^\d+\.\d MiB$/);

  for (const tab of tabs) tab.mayBeOffline = true;
  const node = await a.locator("#node").textContent();
  await server.kill();
  for (const page of [a, b]) await shows(state(page), /^(re)?connecting/);
  await tools.start(server.port);
  for (const page of [a, b]) {
    await page.waitForFunction((before) => document.getElementById("node").textContent !== before, node);
    await shows(page.locator("#connections"), "2");
  }
  const mend = await tools.cut(contexts[0]);
  await shows(state(a), /^(re)?connecting/);
  await mend();
  await shows(state(a), "connected");
});

scenario("notifications: reach everyone, even after a restart and after a lost network", async (tools) => {
  const { server, contexts, tabs, pages: [a, b] } = await pair(tools, "/demos/notifications", state);
  const notify = async (page, text) => {
    await page.getByRole("textbox").fill(text);
    await page.getByRole("textbox").press("Enter");
  };
  await notify(a, "the <i>first</i>");
  for (const page of [a, b]) await shows(page.locator("#notifications p").first(), "1the <i>first</i>");
  await notify(b, "the second");
  for (const page of [a, b]) await shows(page.locator("#notifications p").first(), "2the second");

  for (const tab of tabs) tab.mayBeOffline = true;
  await server.kill();
  for (const page of [a, b]) await shows(state(page), "reconnecting");
  await notify(a, "to nobody");
  await shows(a.locator("#problem"), "no connection; try again in a moment");
  await tools.start(server.port);
  for (const page of [a, b]) await shows(state(page), "connected");
  await notify(a, "here again");
  await shows(b.locator("#notifications p").first(), "1here again");

  // One tab loses its network. The other sends and receives as before.
  const mend = await tools.cut(contexts[1]);
  await shows(state(b), "reconnecting");
  await notify(b, "into the void");
  await shows(b.locator("#problem"), "no connection; try again in a moment");
  await notify(a, "for those online");
  await shows(a.locator("#notifications p").first(), "2for those online");
  await mend();
  await shows(state(b), "connected");
  await notify(b, "back again");
  for (const page of [a, b]) await shows(page.locator("#notifications p").first(), "3back again");
  await contexts[0].close();
});

scenario("cursors: a mouse and the arrow keys move a pointer in both tabs", async (tools) => {
  const { server, contexts, tabs, pages: [a, b] } = await pair(tools, "/demos/cursors", state);
  const place = (page, whose) => page.locator(`[data-pointer=${whose}]`).first().getAttribute("transform");
  await a.locator("#board").hover({ position: { x: 50, y: 40 } });
  await b.locator("[data-pointer=other]").waitFor();
  await a.locator("[data-pointer=mine]").waitFor();
  await b.locator("#board").focus();
  for (let i = 0; i < 3; i++) await b.keyboard.press("ArrowRight");
  await a.locator("[data-pointer=other]").waitFor();
  for (const page of [a, b]) await shows(page.locator("#pointers"), "2");
  await a.waitForFunction(() => document.querySelector("[data-pointer=other]").getAttribute("transform") === "translate(560 300)");
  assert.equal(await place(b, "mine"), "translate(560 300)");

  const mend = await tools.cut(contexts[1]);
  await shows(a.locator("#pointers"), "1");
  await mend();
  await shows(state(b), "connected");
  for (const tab of tabs) tab.mayBeOffline = true;
  await server.kill();
  for (const page of [a, b]) await shows(state(page), /^(re)?connecting/);
  await tools.start(server.port);
  for (const page of [a, b]) await shows(state(page), "connected");
  await b.locator("#board").focus();
  await b.keyboard.press("ArrowLeft");
  await a.locator("[data-pointer=other]").waitFor();
});

scenario("the inspector shows traffic, rooms and connections to this machine", async (tools) => {
  const { tabs, pages: [a] } = await pair(tools, "/inspect", state);
  await a.locator("#connections tr").nth(1).waitFor();
  await a.locator("#rooms").getByText("counter-demo", { exact: true }).waitFor();
  await shows(a.locator("#connections tr").first().locator("td").nth(1), "inspector");
  await a.locator("#traffic").getByText("connections opened").waitFor();
  await tabs[1].page.close();
  await shows(a.locator("#traffic tr").first().locator("td").nth(1), "1");
});

scenario("the inspector shows the frames of one connection, using the keyboard alone", async (tools) => {
  const { server, contexts, pages: [a] } = await pair(tools, "/inspect", state);
  const { page: chat } = await tools.open(contexts[1], server.origin, "/demos/chat");
  await shows(chatState(chat), "connected");
  const end = a.getByRole("button", { name: "Stop watching" });
  assert.equal(await end.isVisible(), false, "there is nothing to stop yet");
  const watch = a.locator("#connections tr", { hasText: "chat" }).getByRole("button", { name: /^Watch the frames of/ });
  await watch.focus();
  await a.keyboard.press("Enter");
  await a.locator("#frames-state", { hasText: "Watching" }).waitFor();
  const seen = a.locator("#frames tr", { hasText: "look at this" });
  while ((await seen.count()) === 0) {
    await say(chat, "look at this"); // nothing is shown until the server observes the connection
    await chatLog(chat).getByText("look at this").last().waitFor();
  }
  await seen.filter({ hasText: "← in" }).first().waitFor();
  await seen.filter({ hasText: "out →" }).first().waitFor();
  await audit(a);
  assert.equal(await a.locator("#connections tr", { hasText: "inspector" }).getByRole("button").count(), 0);
  await end.focus();
  await chat.close();
  await a.locator("#frames-state", { hasText: "The connection is closed." }).waitFor();
  await end.waitFor({ state: "hidden" });
  assert.equal(await a.evaluate(() => document.activeElement.getAttribute("aria-labelledby")), "frames-title", "focus was lost");
});

scenario("the inspector's rows keep the focus when other rows appear and disappear", async (tools) => {
  const { server, contexts, pages: [a] } = await pair(tools, "/inspect", state);
  const open = async () => {
    const { page } = await tools.open(contexts[1], server.origin, "/demos/chat");
    await shows(chatState(page), "connected");
    return page;
  };
  const chats = [await open(), await open(), await open()];
  const rows = a.locator("#connections tr", { hasText: "chat" });
  await rows.nth(2).waitFor();
  const last = rows.last().getByRole("button");
  await last.focus();
  const focused = () => a.evaluate(() => document.activeElement.dataset.id);
  const id = await focused();
  // Closes the chats one by one. The focus stays on its row, or moves to the table once that row
  // disappears.
  for (const chat of chats) {
    const left = await rows.count();
    await chat.close();
    await rows.nth(left - 1).waitFor({ state: "detached" });
    if (await rows.filter({ hasText: id }).count()) assert.equal(await focused(), id);
    else {
      assert.equal(await a.evaluate(() => document.activeElement.ariaLabel), "Connections", "focus was lost");
      break;
    }
  }
});

scenario("the inspector asks for its token, rejects a wrong one, and opens with the right one", async (tools) => {
  const token = "0123456789abcdef";
  const { origin } = await tools.start(0, ["--inspect-token", token, "--trusted-proxies", "loopback"]);
  const tab = await tools.open(await tools.newContext({ viewport: { width: 320, height: 800 } }), origin, "/inspect");
  const { page } = tab;
  await audit(page);
  const field = page.getByLabel("Token");
  await field.fill("0123456789abcdeg");
  await field.press("Enter");
  await shows(page.getByRole("alert"), "Wrong token.");
  await audit(page);
  await page.keyboard.type(token); // the field has the focus
  await page.keyboard.press("Enter");
  await shows(state(page), "connected");
  await page.locator("#connections tr").waitFor();
  allow(tab, 401);
});

looks("/demos", (page) => page.getByRole("heading", { level: 1 }).waitFor());
looks("/demos/chat", (page) => page.locator(".people li").waitFor());
looks("/demos/dashboard", (page) => shows(page.locator("#connections"), "1"));
looks("/demos/notifications", (page) => shows(page.locator("#connection"), "connected"));
looks("/demos/cursors", (page) => shows(page.locator("#connection"), "connected"));
looks("/inspect", (page) => page.locator("#connections tr").waitFor(), { grows: true });
looks("/inspect", (page) => page.getByText("To allow access from elsewhere").waitFor(), { command: ["--trusted-proxies", "loopback"], status: 403 });
looks("/inspect", (page) => page.getByLabel("Token").waitFor(), { command: ["--trusted-proxies", "loopback", "--inspect-token", "0123456789abcdef"], status: 401 });
