// The parts of the lesson other than its counter.

import assert from "node:assert/strict";
import { shows } from "./lib.mjs";
import { followLinks, looks } from "./pages.mjs";
import { audit, scenario } from "./scenario.mjs";

const number = async (page, id) => Number(await page.locator(`#${id}`).textContent());

scenario("each command for several servers is copied as it is shown", async ({ start, newContext, open }) => {
  const { origin } = await start();
  const { page } = await open(await newContext({ permissions: ["clipboard-read", "clipboard-write"] }), origin);
  const commands = await page.locator("#scale .command").all();
  assert.ok(commands.length > 2, `${commands.length} commands`);
  for (const command of commands) {
    await command.getByRole("button", { name: /^Copy the command/ }).click();
    await command.getByRole("button", { name: /^Copied the command/ }).waitFor();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), await command.locator("code").textContent());
  }
});

scenario("every link of the lesson works", async ({ start, newContext, open }) => {
  const { origin } = await start();
  const { page } = await open(await newContext(), origin);
  await followLinks(page, origin);
});

scenario("the measurement shows that polling costs more than the socket", async ({ start, two }) => {
  const { origin } = await start();
  const [{ page }] = await two(origin);
  // Everything runs inside the page, because the measurement lasts ten seconds: one change, and another once
  // the first has arrived.
  const begun = await page.evaluate(() => {
    const [poll, state, bump, value] = ["poll", "poll-state", "poll-bump", "value"].map((id) => document.getElementById(id));
    new MutationObserver((_, once) => (once.disconnect(), bump.click())).observe(value, { childList: true });
    poll.click();
    bump.click();
    return state.textContent;
  });
  assert.equal(begun, "Measuring, 10 s to go");
  await shows(page.locator("#poll-state"), "Measured over 10 s");
  assert.equal(await number(page, "poll-requests"), 10);
  assert.ok(await number(page, "poll-empty") >= 7, "most polls return nothing new");
  assert.equal(await number(page, "socket-messages"), 2);
  assert.equal(await number(page, "socket-bytes"), 2 * (2 + '{"value":1}'.length));
  assert.ok(await number(page, "poll-bytes") > 2000, "ten requests with all their headers");
  await shows(page.locator("#poll-late"), /^up to \d+ ms later$/);
});

scenario("the diagram highlights only the callbacks of this tab's own socket", async ({ start, two }) => {
  const { origin } = await start();
  const [a, b] = await two(origin);
  const called = (tab, callback) => tab.page.locator(`.called[data-callback=${callback}]`);
  for (const tab of [a, b]) await called(tab, "on_open").waitFor();
  const log = a.page.locator("#life-events");
  await log.getByText("on_message").first().waitFor();

  const opened = [];
  a.page.on("websocket", (socket) => opened.push(socket.url()));
  const before = await log.getByText(": ping").count();
  await a.page.getByRole("button", { name: "Send a ping" }).click();
  await log.getByText(": ping").nth(before).waitFor();
  await a.page.locator(".lit[data-callback=on_message]").waitFor();
  assert.deepEqual(opened, [], "a ping must not reopen the connection");

  await a.page.getByRole("button", { name: "Close the socket" }).click();
  await log.getByText(/on_close of .*1012 closed on request/).waitFor();
  await a.page.locator(".sequence text", { hasText: /^close 1012$/ }).waitFor(); // the drawing shows the same code
  await log.getByText("on_open").nth(1).waitFor();
  await shows(a.state, "connected");
  assert.equal(await b.page.locator("#life-events").getByText("on_close").count(), 0);
});

scenario("search works as you type, and without JavaScript", async ({ start, newContext, open }) => {
  const { origin } = await start();
  const { page } = await open(await newContext(), origin);
  await page.getByRole("searchbox").fill("member room");
  await page.locator("#found dt", { hasText: "conn.join(room)" }).waitFor();
  await page.getByRole("searchbox").fill("<b>x");
  await page.locator("#found").getByText("No results for “<b>x”").waitFor();

  const plain = await open(await newContext({ javaScriptEnabled: false }), origin);
  await plain.page.getByRole("searchbox").fill("latest");
  await plain.page.getByRole("button", { name: "Search" }).click();
  await plain.page.locator("dt", { hasText: "Overflow::LatestPerKey" }).waitFor();
  assert.equal(new URL(plain.page.url()).pathname, "/learn/search");
});

scenario("two tabs follow one job, and a late tab sees its current state", async ({ start, two, newContext, open }) => {
  const { origin } = await start();
  const pair = await two(origin);
  for (const { page } of pair) {
    await page.locator("#example-job").scrollIntoViewIfNeeded();
    await shows(page.locator("#job-connection"), "connected");
  }
  await pair[0].page.getByRole("button", { name: "Start the job" }).click();
  for (const { page } of pair) await shows(page.locator("#job-percent"), "100 %");
  for (const { page } of pair) await shows(page.locator("#job-log p").last(), "done");
  const late = await open(await newContext(), origin);
  await late.page.locator("#example-job").scrollIntoViewIfNeeded();
  await shows(late.page.locator("#job-percent"), "100 %");
  assert.equal(await late.page.locator("#job-progress").evaluate((bar) => bar.value), 100);
});

scenario("the job's stream reconnects after an error response, a restart and a lost network", async ({ start, newContext, open, cut }) => {
  const first = await start();
  const context = await newContext();
  const tab = await open(context, first.origin);
  const { page } = tab;
  const state = page.locator("#job-connection");
  // A response that is not an event stream, as a proxy sends while its server starts: the browser gives up.
  let refused = 0;
  await page.route("**/events/learn/job", (route) => (refused++ ? route.continue() : route.fulfill({ status: 204 })));
  await page.locator("#example-job").scrollIntoViewIfNeeded();
  await shows(state, "reconnecting");
  await shows(state, "connected");
  assert.equal(refused, 2);
  await page.unroute("**/events/learn/job");

  tab.mayBeOffline = true;
  await first.kill();
  await shows(state, "reconnecting");
  await start(first.port);
  await shows(state, "connected");
  const mend = await cut(context);
  await shows(state, "reconnecting");
  await mend();
  await shows(state, "connected");
  await page.getByRole("button", { name: "Start the job" }).click();
  await shows(page.locator("#job-percent"), "100 %");
});

scenario("words arrive one by one", async ({ start, newContext, open }) => {
  const { origin } = await start();
  const { page } = await open(await newContext(), origin);
  await page.evaluate(() => {
    window.lengths = new Set();
    const words = document.getElementById("words");
    new MutationObserver(() => window.lengths.add(words.textContent.length)).observe(words, { childList: true });
  });
  const isAnswer = (request) => request.url().endsWith("/api/learn/words");
  const over = Promise.race(["requestfinished", "requestfailed"].map((end) => page.waitForEvent(end, isAnswer)));
  await page.getByRole("button", { name: "Ask" }).click();
  await shows(page.locator("#words"), /^A stream of events .* being written\. $/);
  await over;
  await shows(page.locator("#words-problem"), "");
  assert.ok(await page.evaluate(() => window.lengths.size) > 10, "they arrived in one piece");
});

scenario("the lesson's chat works in both directions", async ({ start, two }) => {
  const { origin } = await start();
  const [a, b] = await two(origin);
  for (const [from, to, text] of [[a, b, "hello"], [b, a, "hello yourself"]]) {
    const said = from.page.getByRole("textbox", { name: "Your message" });
    await said.fill(text);
    await said.press("Enter");
    await to.page.locator("#example-chat .chat-log").getByText(text, { exact: true }).or(to.page.locator("#example-chat .chat-log p", { hasText: text })).first().waitFor();
  }
});

scenario("the log follows a message to all tabs, and to one tab", async ({ start, two }) => {
  const { origin } = await start();
  const [a, b] = await two(origin);
  const log = (tab) => tab.page.locator("#nodes-log");
  for (const { page } of [a, b]) {
    await shows(page.locator("#nodes-connection"), "connected");
    await shows(page.locator("#nodes-backend"), "memory: one node, alone");
    await page.locator("#nodes-advice").getByText("cargo xtask cluster").waitFor();
  }
  await a.page.locator("#nodes-to option").nth(1).waitFor({ state: "attached" });
  await a.page.getByRole("button", { name: "Send to all tabs" }).click();
  await log(a).getByText(/^POST → node \w+ → this tab, \d+\.\d ms after it was sent$/).waitFor();
  await log(a).getByText(/received it, \d+\.\d ms round trip$/).waitFor();
  await log(b).getByText(/^POST → node \w+ → this tab$/).waitFor();

  const other = await a.page.locator("#nodes-to option").evaluateAll((options) => options.find((option) => !option.label.includes("this one")).value);
  await a.page.locator("#nodes-to").selectOption(other);
  await a.page.locator("#nodes-one").click();
  await log(b).getByText("→ this tab only").waitFor();
  assert.equal(await log(a).getByText("this tab only").count(), 0);
});

scenario("the quiz can be answered with the keyboard alone", async ({ start, newContext, open }) => {
  const { origin } = await start();
  const { page } = await open(await newContext(), origin);
  const verdict = page.locator("#verdict");
  await page.locator("#quiz-poll").focus();
  await page.keyboard.press("Enter");
  await verdict.getByText("Choose an answer first").waitFor();
  await page.keyboard.press("Space");
  await page.keyboard.press("Enter");
  await verdict.getByText("Not this").waitFor();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await verdict.getByText(/^Right\./).waitFor();
});

scenario("every part of the lesson recovers after a restart", async ({ start, two }) => {
  const first = await start();
  const pair = await two(first.origin);
  for (const tab of pair) tab.mayBeOffline = true;
  await first.kill();
  for (const tab of pair) await shows(tab.page.locator("#nodes-connection"), /^(re)?connecting/);
  await start(first.port);
  for (const tab of pair) {
    await shows(tab.state, "connected");
    await shows(tab.page.locator("#nodes-connection"), "connected");
    await shows(tab.page.locator("#example-chat [data-part=state]"), "connected");
    await shows(tab.page.locator("#example-chat [data-part=count]"), "2");
  }
  await pair[0].page.getByRole("button", { name: "Send to all tabs" }).click();
  await pair[1].page.locator("#nodes-log").getByText("→ this tab").first().waitFor();
});

for (const colorScheme of ["light", "dark"]) {
  scenario(`${colorScheme} at 320 px: axe finds no problem in filled panels`, async ({ start, newContext, open }) => {
    const { origin } = await start();
    const context = await newContext({ colorScheme, viewport: { width: 320, height: 800 }, reducedMotion: "reduce" });
    const { page } = await open(context, origin);
    await page.getByRole("searchbox").fill("member room");
    await page.locator("#found dt").first().waitFor();
    await page.getByRole("button", { name: "Start the job" }).click();
    await shows(page.locator("#job-percent"), "100 %");
    await page.getByRole("button", { name: "Ask" }).click();
    await shows(page.locator("#words"), /being written\. $/);
    const said = page.getByRole("textbox", { name: "Your message" });
    await said.fill("hello");
    await said.press("Enter");
    await page.locator("#example-chat .chat-log p").waitFor();
    await page.getByRole("button", { name: "Send to all tabs" }).click();
    await page.locator("#nodes-log p").first().waitFor();
    await page.locator("#life-events p").first().waitFor();
    await page.locator("#quiz-poll").check();
    await page.getByRole("button", { name: "Check" }).click();
    await page.locator("#verdict").getByText("Not this").waitFor();
    await audit(page);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "the page is wider than the window");
  });
}

scenario("every part of the lesson reports a lost network, and recovers", async ({ start, newContext, open, cut }) => {
  const { origin } = await start();
  const context = await newContext();
  const tab = await open(context, origin);
  const { page, state, value, bump } = tab;
  const panels = ["#nodes-connection", "#example-chat [data-part=state]"];
  await shows(state, "connected");
  for (const panel of panels) await shows(page.locator(panel), "connected");
  const mend = await cut(context);
  await shows(state, /^(re)?connecting/);
  for (const panel of panels) await shows(page.locator(panel), /^(re)?connecting/);
  await page.getByRole("button", { name: "Send to all tabs" }).click();
  await shows(page.locator("#nodes-problem"), "no connection; try again in a moment");
  await page.locator("#poll-bump").click();
  await shows(page.locator("#poll-problem"), "no connection; try again in a moment");
  await page.getByRole("searchbox").fill("member");
  await shows(page.locator("#found"), "No answer received. Try again in a moment.");
  await page.getByRole("button", { name: "Ask" }).click();
  await shows(page.locator("#words-problem"), "the answer was interrupted; ask again in a moment");
  await mend();
  await shows(state, "connected");
  for (const panel of panels) await shows(page.locator(panel), "connected");
  await shows(page.locator("#nodes-problem"), "");
  await bump.click();
  await shows(value, "1");
  // htmx also logs to the console the errors that the page shows.
  tab.problems = tab.problems.filter((problem) => !problem.startsWith("console error: htmx:"));
});

looks("/learn/search?q=room", (page) => page.locator("dt").first().waitFor());
