// The server's figures, updated once a second, each with a graph of the last two
// minutes.

import { duration, live, states, write } from "./live.js";

const SILENCE = 10_000; // ms without figures after which the connection is considered dead
const KEPT = 120; // points in a graph, one per second
const at = (id) => document.getElementById(id);
const lines = new Map(); // values by figure
let before = null; // the previous figures

live("/ws/demos/dashboard", {
  silence: SILENCE,
  heard(figures) {
    if (figures.notice) return write(at("problem"), figures.notice);
    write(at("problem"), "");
    show(figures);
  },
  opened: () => (before = null),
  said: states(at("connection")),
});

function show(now) {
  const seconds = before ? Math.max((now.at - before.at) / 1000, 0.001) : null;
  const rate = (name) => (seconds ? (now[name] - before[name]) / seconds : 0);
  figure("connections", now.connections);
  figure("messages", rate("messages"), (value) => `${value.toFixed(value < 10 ? 1 : 0)}/s`);
  figure("encoded", rate("encoded"), (value) => `${value.toFixed(value < 10 ? 1 : 0)}/s`);
  figure("rooms", now.rooms);
  write(at("uptime"), duration(now.uptime));
  write(at("opened"), `${now.opened} opened, ${now.closed} closed`);
  // The server sends the rest only to clients that may read its metrics.
  const all = now.node !== undefined;
  for (const part of document.querySelectorAll("[data-operators]")) part.hidden = !all;
  if (all) showAll(now);
  before = now;
}

function showAll({ node, memory, queued_bytes, dropped, remote }) {
  figure("queued", queued_bytes, bytes);
  figure("memory", memory ?? 0, (value) => (memory === null ? "unknown" : bytes(value)));
  write(at("node"), node.slice(0, 8));
  write(at("dropped"), Object.values(dropped).reduce((sum, count) => sum + count, 0));
  write(at("remote"), remote.degraded ? "backend unavailable" : `${remote.sent} sent, ${remote.received} received`);
}

function figure(name, value, format = (value) => `${value}`) {
  const values = lines.get(name) ?? [];
  values.push(value);
  if (values.length > KEPT) values.shift();
  lines.set(name, values);
  write(at(name), format(value));
  const most = Math.max(...values, 1);
  const points = values.map((value, index) => {
    const x = 200 - (values.length - 1 - index) * (200 / (KEPT - 1));
    return `${x.toFixed(1)},${(38 - (value / most) * 36).toFixed(1)}`;
  });
  at(`${name}-line`).setAttribute("points", points.join(" "));
}

function bytes(value) {
  if (value < 1024) return `${value} B`;
  return value < 1024 ** 2 ? `${(value / 1024).toFixed(1)} KiB` : `${(value / 1024 ** 2).toFixed(1)} MiB`;
}
