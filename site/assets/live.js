// A WebSocket that comes back by itself. Every demo uses it; the counter's script shows the same thing with all its reasons.

const RETRY_MAX = 30_000; // ms: the longest wait between two attempts
const OPEN_WITHIN = 10_000; // ms: what takes longer has failed

// The address of a path of this server. It begins where this script came from: a proxy may serve all of it below another path.
export const address = (path) => new URL(`..${path}`, import.meta.url);

// `path` may be a function, asked before each attempt. `heard` gets each message as a value, `said` each change of the
// state: "connecting", "connected" or "reconnecting", and how many seconds the wait is. Where the server says something
// every few seconds, `silence` is the time without a word after which the connection counts as dead.
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

  // Wait longer after each failure, and a random part of that, so that not all tabs return at once.
  function retryLater() {
    if (since && performance.now() - since > 5000) attempts = 0; // it had been well
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
    // Whether it could be sent. What could not is lost: these demos send nothing that matters later.
    send(value) {
      if (socket?.readyState !== WebSocket.OPEN) return false;
      socket.send(typeof value === "string" ? value : JSON.stringify(value));
      return true;
    },
    reconnect: connect,
  };
}

// Writing an unchanged text would make a screen reader say it again.
export function write(element, text) {
  if (element.textContent !== `${text}`) element.textContent = text;
}

// Seconds as people say them.
export function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  return minutes < 1 ? `${seconds} s` : minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// The state of a connection in words, in an element that has room for it.
export function states(element) {
  return (state, seconds) => {
    element.dataset.state = state;
    write(element, seconds ? `${state} within ${seconds} s` : state);
  };
}

// Asks the server for something with a POST. The sentence that says why not, or "" when all is well.
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
