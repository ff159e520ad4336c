// The inspector: one picture of the node a second.

import { live, states, write } from "./live.js";

const SILENCE = 10_000; // ms without a picture after which the connection counts as dead
const at = (id) => document.getElementById(id);
let before = null; // the figures before these

live("/ws/inspect", {
  silence: SILENCE,
  heard({ figures, connections, rooms, notice }) {
    write(at("problem"), notice ?? "");
    if (figures) show(figures, connections, rooms);
  },
  opened: () => (before = null),
  said: states(at("connection")),
});

function show(figures, connections, rooms) {
  const seconds = before && (figures.at - before.at) / 1000;
  const grown = (name) => [figures[name], seconds > 0 ? ((figures[name] - before[name]) / seconds).toFixed(1) : "–"];
  write(at("node"), figures.node.slice(0, 8));
  write(at("uptime"), `${figures.uptime} s`);
  rows(at("traffic"), [
    ["connections", figures.connections, ""],
    ["rooms", figures.rooms, ""],
    ["bytes waiting for slow readers", figures.queued_bytes, ""],
    ["connections opened", ...grown("opened")],
    ["connections closed", ...grown("closed")],
    ["messages received", ...grown("messages")],
    ["frames encoded for rooms", ...grown("encoded")],
    ["closed as too slow", ...grown("slow_consumers")],
    ["slow callbacks", ...grown("slow_callbacks")],
    ["failed callbacks", ...grown("failed_callbacks")],
    ["broken protocol", ...grown("protocol_errors")],
  ]);
  rows(at("drops"), [
    ["the node was overloaded", figures.dropped.overloaded],
    ["a newer frame of its key came", figures.dropped.replaced],
    ["an outbox was full", figures.dropped.outbox_full],
    ["its reader was closed as too slow", figures.dropped.slow_consumer],
    ["too much waited on the whole node", figures.dropped.shed],
  ]);
  const { degraded, ...remote } = figures.remote;
  write(at("degraded"), degraded ? "the backend is away" : "well");
  rows(at("remote"), Object.entries(remote).map(([name, count]) => [name.replace("_", " "), count]));
  rows(at("rooms"), rooms.map(({ name, members }) => [name, members]));
  rows(at("connections"), connections.map(({ id, what, addr, seconds, client }) => [id, what, addr ?? "", seconds === null ? "" : `${seconds} s`, client ?? ""]));
  before = figures;
}

// Cells are changed where they stand: a table that is built anew each second can't be read or selected.
function rows(body, values) {
  while (body.rows.length > values.length) body.deleteRow(-1);
  values.forEach((cells, index) => {
    const row = body.rows[index] ?? body.insertRow();
    cells.forEach((cell, column) => write(row.cells[column] ?? row.insertCell(), cell));
  });
}
