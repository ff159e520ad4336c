// Notifications. The browser's EventSource listens and reconnects by itself. Sending is a plain POST.

import { address, post, states, write } from "./live.js";

const KEPT = 50; // notifications kept on the page
const at = (id) => document.getElementById(id);
const said = states(at("connection"));
let stream, again, unread = 0;

function listen() {
  clearTimeout(again);
  said("connecting");
  stream = new EventSource(address("/events/demos/notifications"));
  stream.onopen = () => {
    said("connected");
    write(at("problem"), "");
  };
  stream.onmessage = ({ data }) => show(JSON.parse(data));
  // The browser reconnects by itself, except after an error response. In that case, reconnect later.
  stream.onerror = () => {
    said("reconnecting");
    if (stream.readyState === EventSource.CLOSED) again = setTimeout(listen, 3000 + 7000 * Math.random());
  };
}

function show({ number, text }) {
  const item = document.createElement("p");
  const count = document.createElement("span");
  count.textContent = `${number}`;
  item.append(count, text);
  at("notifications").prepend(item);
  while (at("notifications").childElementCount > KEPT) at("notifications").lastElementChild.remove();
  unread = document.hidden ? unread + 1 : 0;
  document.title = unread ? `(${unread}) Notifications` : "Notifications";
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = "Notifications";
});

at("notify").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { problem } = await post("/api/demos/notifications", { text: at("text").value });
  write(at("problem"), problem);
  if (!problem) at("text").value = "";
});

// A stream that loses its network just goes silent. The stream reports no error, but the browser fires
// "offline".
addEventListener("offline", () => {
  stream.close();
  said("reconnecting");
});
addEventListener("online", () => stream.readyState === EventSource.CLOSED && listen());

// A page in the back/forward cache must not hold a stream open: browsers allow about six per host.
addEventListener("pagehide", () => stream.close());
addEventListener("pageshow", (event) => event.persisted && listen());
listen();
