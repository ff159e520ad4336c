// The nodes, the tabs on each, and the path that a message takes.

import { address, live, post, states, write } from "./live.js";

const ASK_EVERY = 3000; // ms
const KEPT = 30; // lines
const at = (id) => document.getElementById(id);
const short = (id) => id.slice(0, 8);
const tab = (id) => `tab …${id.slice(-6)}`;
const sent = new Map(); // send time by message number: our own messages of the last minute
let me = null; // our own id and node
let nodes = null; // the last response of /api/nodes

const socket = live("/ws/learn/nodes", {
  heard({ you, message, got, notice }) {
    if (you) {
      me = you;
      write(at("nodes-mine"), short(you.node));
      ask();
    }
    if (message) arrived(message);
    if (got) acknowledged(got);
    if (notice) write(at("nodes-problem"), notice);
  },
  opened: () => write(at("nodes-problem"), ""),
  said: states(at("nodes-connection")),
});

// Shows the path of a message to this tab: from the node that accepted it to the node that we are connected to.
function arrived({ number, posted, one }) {
  const way = posted === me?.node ? `node ${short(posted)}` : `node ${short(posted)} → Redis → node ${me ? short(me.node) : "?"}`;
  const time = sent.has(number) ? `, ${(performance.now() - sent.get(number)).toFixed(1)} ms after it was sent` : "";
  line(`POST → ${way} → this tab${one ? " only" : ""}${time}`);
  socket.send({ got: number });
}

// Another tab has acknowledged one of our messages.
function acknowledged({ number, id, node }) {
  if (!sent.has(number) || id === me?.id) return;
  line(`${tab(id)} on node ${short(node)} received it, ${(performance.now() - sent.get(number)).toFixed(1)} ms round trip`);
}

function line(text) {
  const item = document.createElement("p");
  item.textContent = text;
  at("nodes-log").append(item);
  while (at("nodes-log").childElementCount > KEPT) at("nodes-log").firstElementChild.remove();
  at("nodes-log").scrollTop = at("nodes-log").scrollHeight;
}

async function send(to) {
  const number = Math.floor(Math.random() * Number.MAX_SAFE_INTEGER);
  sent.set(number, performance.now());
  setTimeout(() => sent.delete(number), 60_000);
  const { problem, response } = await post("/api/learn/send", { number, to });
  write(at("nodes-problem"), problem);
  if (problem || !to) return;
  const { posted, reached, owners } = await response.json();
  line(reached ? `node ${short(posted)} found ${tab(to)} on node ${owners.map(short).join(", ")}` : `${tab(to)} is disconnected`);
}

at("nodes-all").addEventListener("click", () => send(null));
at("nodes-one").addEventListener("click", () => at("nodes-to").value && send(at("nodes-to").value));

async function ask() {
  try {
    nodes = await (await fetch(address("/api/nodes"))).json();
  } catch {
    return; // the socket already shows that there is no connection
  }
  show(nodes);
}

function show({ node, nodes, backend, degraded, tabs }) {
  const away = degraded ? ", unavailable: this node continues alone" : "";
  // The server names its backend only to clients that may read its metrics.
  const named = backend === "memory" ? "memory: one node, alone" : `Redis${away}`;
  write(at("nodes-backend"), backend ? named : degraded ? "unavailable: this node continues alone" : "shown to operators only");
  const all = [...new Set([...nodes, ...Object.keys(tabs)])].sort();
  rows(at("nodes-list"), all.map((id) => [short(id) + (id === (me?.node ?? node) ? " (this tab’s)" : ""), tabs[id]?.length ?? 0]));
  const ids = Object.values(tabs).flat();
  const select = at("nodes-to");
  if ([...select.options].map(({ value }) => value).join() !== ids.join()) {
    const chosen = select.value;
    select.replaceChildren(...ids.map((id) => new Option(`${tab(id)} on ${short(id)}${id === me?.id ? " (this one)" : ""}`, id)));
    if (ids.includes(chosen)) select.value = chosen;
  }
  const start = "Start Redis and three nodes with “cargo xtask cluster”, then open this page at two of the addresses that it prints.";
  const alone = "There is one node. Start another with the same Redis, and it appears here.";
  write(at("nodes-advice"), backend === "memory" ? start : all.length < 2 ? alone : "");
}

function rows(body, values) {
  while (body.rows.length > values.length) body.deleteRow(-1);
  values.forEach((cells, index) => {
    const row = body.rows[index] ?? body.insertRow();
    cells.forEach((cell, column) => write(row.cells[column] ?? row.insertCell(), cell));
  });
}

setInterval(() => document.hidden || ask(), ASK_EVERY);
