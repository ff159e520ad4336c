// The server's figures, updated once a second, each with a graph of the last two
// minutes, which the server keeps.

import { duration, live, states, write } from "./live.js";

const SILENCE = 10_000; // ms without figures after which the connection is considered dead
const KEPT = 120; // points in a graph, one per second
const at = (id) => document.getElementById(id);

const bytes = (value) => {
  if (value < 1024) return `${value} B`;
  return value < 1024 ** 2 ? `${(value / 1024).toFixed(1)} KiB` : `${(value / 1024 ** 2).toFixed(1)} MiB`;
};
const perSecond = (value) => `${value.toFixed(value < 10 ? 1 : 0)}/s`;

// `scale` is the least value at the top of a graph, so that a single event is not a mountain. `total` counts from
// startup: the graph shows its change per second.
const FIGURES = {
  connections: { scale: 10 },
  messages: { scale: 10, total: true, format: perSecond },
  encoded: { scale: 10, total: true, format: perSecond },
  rooms: { scale: 10 },
  queued: { scale: 64 * 1024, field: "queued_bytes", format: bytes },
  memory: { scale: 32 * 1024 ** 2, format: bytes },
};
let points = []; // the figures of the last two minutes, oldest first

live("/ws/demos/dashboard", {
  silence: SILENCE,
  heard({ history, ...figures }) {
    if (figures.notice) return write(at("problem"), figures.notice);
    write(at("problem"), "");
    if (history) points = history;
    else show(figures);
  },
  opened: () => (points = []),
  said: states(at("connection")),
});

function show(now) {
  // The first figures may come just after the last of the history. Two so close give no rate.
  if (now.at - (points.at(-1)?.at ?? 0) < 500) points.pop();
  points = [...points, now].slice(-KEPT);
  for (const [name, figure] of Object.entries(FIGURES)) draw(name, figure);
  write(at("uptime"), duration(now.uptime));
  write(at("opened"), `${now.opened} opened, ${now.closed} closed`);
  // The server sends the rest only to clients that may read its metrics.
  const all = now.node !== undefined;
  for (const part of document.querySelectorAll("[data-operators]")) part.hidden = !all;
  if (all) showAll(now);
}

function showAll({ node, dropped, remote }) {
  write(at("node"), node.slice(0, 8));
  write(at("dropped"), Object.values(dropped).reduce((sum, count) => sum + count, 0));
  write(at("remote"), remote.degraded ? "backend unavailable" : `${remote.sent} sent, ${remote.received} received`);
}

function draw(name, { scale, total, field = name, format = (value) => `${value}` }) {
  const value = (point, index) => {
    if (!total) return point[field] ?? 0;
    const before = points[index - 1] ?? point;
    return ((point[field] - before[field]) * 1000) / Math.max(point.at - before.at, 1);
  };
  const values = points.map(value);
  write(at(name), points.at(-1)[field] == null ? "unknown" : format(values.at(-1)));
  const most = Math.max(...values, scale);
  const line = values.map((value, index) => {
    const x = 200 - (values.length - 1 - index) * (200 / (KEPT - 1));
    return `${x.toFixed(1)},${(38 - (value / most) * 36).toFixed(1)}`;
  });
  at(`${name}-line`).setAttribute("points", line.join(" "));
}
