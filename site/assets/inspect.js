// The inspector: a snapshot of the node once a second, and the live frames of one connection.

import { duration, live, states, write } from "./live.js";

const SILENCE = 10_000; // ms without a snapshot after which the connection is considered dead
const FRAMES = 200; // rows kept in the log
const at = (id) => document.getElementById(id);
let before = null; // the previous figures
let watched = null; // id of the connection whose frames are shown

const socket = live("/ws/inspect", {
  silence: SILENCE,
  heard({ figures, connections, rooms, notice, ...report }) {
    if (report.frames) log(report);
    else write(at("problem"), notice ?? "");
    if (figures) show(figures, connections, rooms);
  },
  opened() {
    before = null;
    if (watched) watch(watched); // after a server restart the connection no longer exists, and the server reports that
  },
  said: states(at("connection")),
});

function show(figures, connections, rooms) {
  const seconds = before && (figures.at - before.at) / 1000;
  const grown = (name) => [figures[name], seconds > 0 ? ((figures[name] - before[name]) / seconds).toFixed(1) : "–"];
  write(at("node"), figures.node.slice(0, 8));
  write(at("uptime"), duration(figures.uptime));
  rows(at("traffic"), [
    ["connections", figures.connections, ""],
    ["rooms", figures.rooms, ""],
    ["bytes queued for slow readers", figures.queued_bytes, ""],
    ["connections opened", ...grown("opened")],
    ["connections closed", ...grown("closed")],
    ["messages received", ...grown("messages")],
    ["frames encoded for rooms", ...grown("encoded")],
    ["closed for reading too slowly", ...grown("slow_consumers")],
    ["slow callbacks", ...grown("slow_callbacks")],
    ["failed callbacks", ...grown("failed_callbacks")],
    ["broken protocol", ...grown("protocol_errors")],
  ]);
  rows(at("drops"), [
    ["node overloaded", figures.dropped.overloaded],
    ["replaced by a newer message with the same key", figures.dropped.replaced],
    ["outbox full", figures.dropped.outbox_full],
    ["receiver closed as too slow", figures.dropped.slow_consumer],
    ["node-wide queue limit reached", figures.dropped.shed],
  ]);
  const { degraded, ...remote } = figures.remote;
  write(at("degraded"), degraded ? ": backend unavailable" : "");
  rows(at("remote"), Object.entries(remote).map(([name, count]) => [name.replace("_", " "), count]));
  rows(at("rooms"), rooms.map(({ name, members }) => [name, members]), rooms.map(({ name }) => name));
  const cells = ({ id, what, addr, seconds, client }) => [id, what, addr ?? "", seconds === null ? "" : duration(seconds), client ?? "", watchButton(id, what)];
  rows(at("connections"), connections.map(cells), connections.map(({ id }) => id));
  before = figures;
}

// Update cells in place: a table that is rebuilt each second cannot be read or selected. Rows are keyed, so that the
// focus stays on the same item.
function rows(body, values, keys = [...values.keys()]) {
  const wanted = new Set(keys.map(String));
  const had = body.contains(document.activeElement);
  for (const row of [...body.rows]) if (!wanted.has(row.dataset.key)) row.remove();
  if (had && !body.contains(document.activeElement)) body.closest("[tabindex]").focus();
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  values.forEach((cells, index) => {
    const key = String(keys[index]);
    const row = known.get(key) ?? document.createElement("tr");
    row.dataset.key = key;
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] ?? null);
    cells.forEach((cell, column) => {
      const at = row.cells[column] ?? row.insertCell();
      if (typeof cell === "function") cell(at);
      else write(at, cell);
    });
  });
}

// Fills a cell with a button that watches the connection. Inspectors have no button: the log would log itself.
function watchButton(id, what) {
  return (cell) => {
    let button = cell.querySelector("button");
    if (what === "inspector") return button?.remove();
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.textContent = "Watch";
      button.onclick = () => watch(button.dataset.id);
      cell.append(button);
    }
    button.dataset.id = id;
    button.ariaLabel = `Watch the frames of ${id}`;
  };
}

function watch(id) {
  if (id !== watched) at("frames").replaceChildren();
  watched = id;
  socket.send({ frames_of: id });
  at("frames-end").hidden = false;
  write(at("frames-state"), `Watching ${id}`);
}

at("frames-end").onclick = () => {
  socket.send({ frames_of: null });
  write(at("frames-state"), `Stopped watching ${watched}`);
  unwatch();
};

function unwatch() {
  watched = null;
  const end = at("frames-end");
  if (document.activeElement === end) at("frames").closest("[tabindex]").focus(); // it is about to be hidden
  end.hidden = true;
}

function log({ frames_of, frames, missed, ended, refused }) {
  if (frames_of !== watched) return; // a late report of a connection watched before
  for (const frame of frames) {
    const row = at("frames").insertRow(0); // newest first
    const what = frame.kind + (frame.code ? ` ${frame.code}` : "") + (frame.compressed ? ", compressed" : "");
    const cells = [time(frame.at), frame.received ? "← in" : "out →", what, frame.bytes, frame.waiting || "", frame.head + (frame.cut ? "…" : "")];
    cells.forEach((cell) => (row.insertCell().textContent = cell));
  }
  while (at("frames").rows.length > FRAMES) at("frames").deleteRow(-1);
  const state = refused ?? (ended ? "The connection is closed." : "");
  const unseen = missed ? ` ${missed} arrived too fast to show.` : "";
  write(at("frames-state"), `Watching ${watched}${state || unseen ? ":" : ""} ${state}${unseen}`.trim());
  if (ended) unwatch();
}

function time(at) {
  return new Date(at).toLocaleTimeString([], { hourCycle: "h23", hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
}
