// Polls once a second for ten seconds, and compares that with what the counter's socket receives in the same
// time.

import { address, post, write } from "./live.js";

const SECONDS = 10;
const FRAME_HEADER = 2; // bytes, for a short message from the server
const at = (id) => document.getElementById(id);

// The counter's script writes each value that its socket receives. Nothing else writes there.
let pushed = null; // called for each value while a measurement runs
new MutationObserver(() => pushed?.(Number(at("value").textContent))).observe(at("value"), { childList: true });

async function measure() {
  at("poll").disabled = true;
  write(at("poll-said"), `Measuring for ${SECONDS} seconds`); // the countdown is only visual
  const polled = { requests: 0, empty: 0, bytes: 0, late: [] };
  const socket = { messages: 0, bytes: 0 };
  const changes = new Map(); // when the socket delivered each value that polling has not seen yet
  let known = Number(at("value").textContent);
  pushed = (value) => {
    socket.messages += 1;
    socket.bytes += FRAME_HEADER + JSON.stringify({ value }).length;
    changes.set(value, performance.now());
    show(polled, socket);
  };
  for (let left = SECONDS; left > 0; left--) {
    write(at("poll-state"), `Measuring, ${left} s to go`);
    const begin = performance.now();
    try {
      const { value, request, response } = await (await fetch(address("/api/learn/poll"), { cache: "no-store" })).json();
      polled.requests += 1;
      polled.bytes += request + response;
      if (value === known) polled.empty += 1;
      else if (changes.has(value)) polled.late.push(performance.now() - Math.min(...changes.values()));
      if (value !== known) changes.clear();
      known = value;
      write(at("poll-problem"), "");
    } catch {
      write(at("poll-problem"), "no connection: this poll received no response");
    }
    show(polled, socket);
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, 1000 - (performance.now() - begin))));
  }
  pushed = null;
  write(at("poll-state"), `Measured over ${SECONDS} s`);
  write(at("poll-said"), `Measured: ${polled.bytes} bytes by polling, ${socket.bytes} by the socket`);
  at("poll").disabled = false;
}

function show({ requests, empty, bytes, late }, socket) {
  write(at("poll-requests"), requests);
  write(at("poll-empty"), empty);
  write(at("poll-messages"), "–");
  write(at("poll-bytes"), bytes);
  write(at("poll-late"), late.length ? `up to ${Math.round(Math.max(...late))} ms later` : "–");
  write(at("socket-requests"), 0);
  write(at("socket-empty"), 0);
  write(at("socket-messages"), socket.messages);
  write(at("socket-bytes"), socket.bytes);
  write(at("socket-late"), socket.messages ? "immediately" : "–");
}

at("poll").addEventListener("click", measure);
at("poll-bump").addEventListener("click", async () => write(at("poll-problem"), (await post("/api/counter/bump")).problem));
