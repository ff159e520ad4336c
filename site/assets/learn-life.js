// Highlights each callback in the diagram when the server calls it for this tab's socket.

import { live, write } from "./live.js";
import { tab } from "./tab.js";

const LIT = 1200; // ms
const KEPT = 30; // lines
const at = (id) => document.getElementById(id);
const boxes = new Map([...document.querySelectorAll("[data-callback]")].map((box) => [box.dataset.callback, box]));
const opened = new Set(); // ids of connections whose on_open has been shown
const timers = new Map();

const socket = live(`/ws/learn/life?tab=${tab}`, {
  heard({ callback, id, with: what, earlier, notice }) {
    if (notice) write(at("life-problem"), notice);
    if (!callback) return;
    if (callback === "on_open") {
      if (opened.has(id)) return; // reported twice: live, and as history
      opened.add(id);
      // A new connection starts over.
      for (const box of boxes.values()) box.classList.remove("called");
    }
    light(callback);
    line(callback, id, earlier ? "before this page started watching" : what);
  },
  opened: () => write(at("life-problem"), ""),
});

function light(callback) {
  const box = boxes.get(callback);
  box.classList.add("called", "lit");
  clearTimeout(timers.get(callback));
  timers.set(callback, setTimeout(() => box.classList.remove("lit"), LIT));
}

function line(callback, id, what) {
  const item = document.createElement("p");
  const code = document.createElement("code");
  code.textContent = callback;
  item.append(`${new Date().toLocaleTimeString()} `, code, ` of …${id.slice(-6)}${what ? `: ${what}` : ""}`);
  at("life-events").append(item);
  while (at("life-events").childElementCount > KEPT) at("life-events").firstElementChild.remove();
  at("life-events").scrollTop = at("life-events").scrollHeight;
}

// The counter's script pings when its tab becomes visible. (It also pings when the network comes back, but that event
// would make the page's other sockets reconnect.)
at("life-ping").addEventListener("click", () => document.dispatchEvent(new Event("visibilitychange")));
at("life-close").addEventListener("click", () => {
  write(at("life-problem"), socket.send("close") ? "" : "not sent: no connection");
});
