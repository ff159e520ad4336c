// The live counter: one WebSocket, kept alive and reopened whenever it drops.

import { tab } from "./tab.js"; // identifies this tab, so that the lesson can show its callbacks

const RETRY_MAX = 30_000; // ms: longest wait between two attempts
const PING_EVERY = 15_000; // ms: interval between pings
const SETTLED = 1000; // ms: delay of the second ping
const ANSWER_WITHIN = 10_000; // ms: without an answer for this long, the connection is dead

// The server is where this script came from: a proxy may serve it under a path prefix.
const address = (path) => new URL(`..${path}`, import.meta.url);
const url = address(`/ws/counter-demo?tab=${tab}`);
url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
const at = (id) => document.getElementById(id);

let socket = null; // open or connecting; null while we wait to retry
let attempts = 0; // consecutive failures, which lengthen the next wait
let heartbeat, second, deadline, countdown; // timers
let pinged = null; // when the unanswered ping was sent

function connect() {
  letGo();
  say("connecting");
  socket = new WebSocket(url);
  socket.onopen = () => {
    say("connected");
    clearTimeout(deadline);
    heartbeat = setInterval(ping, PING_EVERY);
    ping();
    second = setTimeout(ping, SETTLED); // the first answer was delayed by the page load
    socket.send("tabs"); // subscribe to the number of open tabs
  };
  socket.onmessage = ({ data }) => (data === "pong" ? pong() : show(JSON.parse(data)));
  socket.onclose = retryLater; // an error is always followed by a close
  deadline = setTimeout(retryLater, ANSWER_WITHIN);
}

// Show what the server sends. It sends the current value as soon as a socket opens, so a
// tab that was offline catches up without asking.
function show({ value, tabs, node }) {
  if (value !== undefined) {
    attempts = 0;
    write("value", value);
    write("problem", "");
  }
  if (tabs !== undefined) write("tabs", tabs);
  if (node !== undefined) write("node", node.slice(0, 8));
}

// A network can fail silently, without a close event. Only an unanswered ping reveals it.
function ping() {
  if (pinged !== null) return;
  pinged = performance.now();
  deadline = setTimeout(connect, ANSWER_WITHIN);
  socket.send("ping");
}

function pong() {
  clearTimeout(deadline);
  write("rtt", `${(performance.now() - pinged).toFixed(1)} ms`);
  pinged = null;
}

// Wait longer after each failure, and a random fraction of that, so that a thousand tabs do
// not all return at the same instant.
function retryLater() {
  letGo();
  const wait = Math.random() * Math.min(RETRY_MAX, 1000 * 2 ** attempts++);
  const until = performance.now() + wait;
  (function tick() {
    const left = until - performance.now();
    if (left <= 0) return connect();
    say("reconnecting", ` in ${Math.ceil(left / 1000)} s`);
    countdown = setTimeout(tick, left % 1000);
  })();
}

// Stop every timer and drop the socket: nothing that it still delivers is handled.
function letGo() {
  clearInterval(heartbeat);
  clearTimeout(second);
  clearTimeout(deadline);
  clearTimeout(countdown);
  pinged = null;
  write("tabs", "–");
  write("rtt", "–");
  write("node", "–");
  if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
  socket?.close();
  socket = null;
}

// Conditions have improved: do not sit out the wait, and do not trust an old connection.
function wake() {
  if (!socket) connect();
  else if (socket.readyState === WebSocket.OPEN) ping();
}

addEventListener("online", () => {
  if (socket?.readyState === WebSocket.OPEN) ping();
  else connect();
});
document.addEventListener("visibilitychange", () => document.hidden || wake());
addEventListener("pagehide", letGo); // it may enter the back/forward cache…
addEventListener("pageshow", (event) => event.persisted && wake()); // …and come back

// The buttons do not change the number. They ask the server, which pushes the new value to
// every tab.
async function post(label, path) {
  wake(); // someone is here and waiting
  try {
    const response = await fetch(address(path), { method: "POST" });
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    write("problem", "");
  } catch (error) {
    const why = error instanceof TypeError ? "no connection" : error.message;
    write("problem", `${label} failed: ${why}`);
  }
}

at("bump").onclick = () => post("+1", "/api/counter/bump");
at("reset").onclick = () => post("Reset", "/api/counter/reset");

function say(state, rest = "") {
  at("counter").dataset.state = state;
  write("state", state);
  write("countdown", rest);
}

// Writing unchanged text would make a screen reader announce it again.
function write(id, text) {
  if (at(id).textContent !== `${text}`) at(id).textContent = text;
}

connect();
