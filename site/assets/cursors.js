// Everyone's pointer on one board, moved with a mouse, a finger or the arrow keys.

import { live, states, write } from "./live.js";

const SEND_EVERY = 40; // ms between two positions sent
const GONE_AFTER = 60_000; // ms without an update after which a pointer is removed
const STEP = 0.02; // fraction of the board per arrow key

const board = document.getElementById("board");
const others = new Map(); // { element, at } by id
const mine = { x: 0.5, y: 0.5 };
let me = null;
let due; // timer for the next send

const socket = live("/ws/demos/cursors", {
  heard({ you, at, gone, notice }) {
    if (you) {
      // A new connection has a new id. Other pointers reappear when they move.
      for (const id of others.keys()) remove(id);
      me = you;
    }
    if (at) place(at);
    if (gone) remove(gone);
    if (notice) write(document.getElementById("problem"), notice);
  },
  opened: () => write(document.getElementById("problem"), ""),
  said: states(document.getElementById("connection")),
});

function place({ id, x, y }) {
  const pointer = others.get(id) ?? add(id);
  pointer.at = performance.now();
  pointer.element.setAttribute("transform", `translate(${x * 1000} ${y * 600})`);
}

function add(id) {
  const element = document.getElementById("pointer").cloneNode(true);
  element.removeAttribute("id");
  element.dataset.pointer = id === me ? "mine" : "other";
  element.dataset.hue = parseInt(id.slice(-4), 16) % 6;
  element.querySelector("text").textContent = id === me ? "you" : `guest ${id.slice(-4)}`;
  board.append(element);
  others.set(id, { element, at: 0 });
  count();
  return others.get(id);
}

function remove(id) {
  others.get(id)?.element.remove();
  others.delete(id);
  count();
}

function count() {
  write(document.getElementById("pointers"), others.size);
}

// Sends at most one position per SEND_EVERY: always the latest, without those in
// between.
function moved(x, y) {
  mine.x = Math.min(1, Math.max(0, x));
  mine.y = Math.min(1, Math.max(0, y));
  due ??= setTimeout(() => {
    due = undefined;
    socket.send({ x: Number(mine.x.toFixed(4)), y: Number(mine.y.toFixed(4)) });
  }, SEND_EVERY);
}

board.addEventListener("pointermove", (event) => {
  const { left, top, width, height } = board.getBoundingClientRect();
  moved((event.clientX - left) / width, (event.clientY - top) / height);
});

const STEPS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
board.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  moved(mine.x + step[0], mine.y + step[1]);
});

setInterval(() => {
  for (const [id, { at }] of others) if (performance.now() - at > GONE_AFTER) remove(id);
}, 5000);
