// A WebSocket that reconnects automatically, for the demos. counter.js shows the same code with the reasons for each
// step.

const RETRY_MAX = 30_000; // ms: longest wait between two attempts
const OPEN_WITHIN = 10_000; // ms: an attempt that takes longer has failed

// Returns the URL of a path on this server, relative to this script: a proxy may serve the site under a path prefix.
export const address = (path) => new URL(`..${path}`, import.meta.url);

// Opens a WebSocket at `path`, which may be a function that is called before each attempt. `heard` receives each
// message, parsed. `said` receives each state ("connecting", "connected" or "reconnecting") and, when reconnecting, the
// wait in seconds. If `silence` is set, a connection without a message for that many ms counts as dead.
export function live(path, { heard, opened = () => {}, said = () => {}, silence }) {
  let socket = null;
  let attempts = 0;
  let timer, since;

  function alive() {
    clearTimeout(timer);
    if (silence) timer = setTimeout(retryLater, silence);
  }

  function connect() {
    letGo();
    said("connecting");
    const url = address(typeof path === "function" ? path() : path);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    socket = new WebSocket(url);
    timer = setTimeout(retryLater, OPEN_WITHIN);
    socket.onopen = () => {
      alive();
      since = performance.now();
      said("connected");
      opened();
    };
    socket.onmessage = ({ data }) => {
      alive();
      heard(JSON.parse(data));
    };
    socket.onclose = retryLater;
  }

  // Waits longer after each failure, and a random fraction of that, so that not all tabs return at once.
  function retryLater() {
    if (since && performance.now() - since > 5000) attempts = 0; // it was stable
    letGo();
    const wait = Math.random() * Math.min(RETRY_MAX, 1000 * 2 ** attempts++);
    said("reconnecting", Math.ceil(wait / 1000));
    timer = setTimeout(connect, wait);
  }

  function letGo() {
    clearTimeout(timer);
    since = undefined;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    socket?.close();
    socket = null;
  }

  const wake = () => socket || connect();
  addEventListener("online", connect);
  addEventListener("offline", () => socket && retryLater());
  document.addEventListener("visibilitychange", () => document.hidden || wake());
  addEventListener("pagehide", letGo);
  addEventListener("pageshow", (event) => event.persisted && wake());
  connect();

  return {
    // Returns whether the value was sent. Values that could not be sent are lost: nothing in these demos matters later.
    send(value) {
      if (socket?.readyState !== WebSocket.OPEN) return false;
      socket.send(typeof value === "string" ? value : JSON.stringify(value));
      return true;
    },
    reconnect: connect,
  };
}

// Writing unchanged text would make a screen reader announce it again.
export function write(element, text) {
  if (element.textContent !== `${text}`) element.textContent = text;
}

// Formats seconds for display.
export function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  return minutes < 1 ? `${seconds} s` : minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// Returns a function that shows the state of a connection in `element`.
export function states(element) {
  return (state, seconds) => {
    element.dataset.state = state;
    write(element, seconds ? `${state} within ${seconds} s` : state);
  };
}

// Sends a POST request. `problem` is "" on success, and otherwise a sentence to show.
export async function post(path, value) {
  try {
    const headers = value === undefined ? {} : { "content-type": "application/json" };
    const response = await fetch(address(path), { method: "POST", headers, body: JSON.stringify(value) });
    if (response.ok) return { problem: "", response };
    return { problem: (await response.text()).trim() || `the server answered ${response.status}`, response };
  } catch {
    return { problem: "no connection; try again in a moment" };
  }
}
