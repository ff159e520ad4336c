// The board's page. It shows what the server sends; the buttons only send requests.

const [add, state, notes] = ["add", "state", "notes"].map((id) => document.getElementById(id));
const RETRY_MAX = 15_000; // ms: longest wait between two attempts
let attempts = 0; // consecutive failures
let seen = null; // the notes received since the snapshot began, until its end

function connect() {
  const socket = new WebSocket(`${location.origin.replace("http", "ws")}/live`);
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.snapshot === "begin") seen = new Set();
    else if (message.snapshot === "end") complete();
    else show(message);
  };
  socket.onclose = () => {
    state.textContent = "Connection lost. Reconnecting …";
    // Longer after each failure, and random, so that a thousand pages do not all return at the same
    // moment.
    setTimeout(connect, 200 + Math.random() * Math.min(RETRY_MAX, 1000 * 2 ** attempts++));
  };
}

// Shows a new or changed note, or removes it if `row` is null.
function show({ key, row }) {
  const id = `note-${key}`;
  seen?.add(id);
  let note = document.getElementById(id);
  if (!row) return note?.remove();
  if (!note) {
    note = document.createElement("li");
    note.id = id;
    note.append(document.createElement("span"), button("like", "POST", `/notes/${key}/like`), button("×", "DELETE", `/notes/${key}`));
    place(note, Number(key));
  }
  const [text, like, remove] = note.children;
  text.textContent = row.text; // as text, never as HTML: anyone may have written it
  like.textContent = `♥ ${row.likes}`;
  like.ariaLabel = `Like, ${row.likes} so far: ${row.text}`;
  remove.ariaLabel = `Remove: ${row.text}`;
}

// Newest first; the server sends them in any order.
function place(note, key) {
  note.dataset.key = key;
  const next = [...notes.children].find(({ dataset }) => Number(dataset.key) < key);
  notes.insertBefore(note, next ?? null);
}

// The server has sent all notes. Others were removed while we were disconnected.
function complete() {
  for (const note of [...notes.children]) if (!seen.has(note.id)) note.remove();
  seen = null;
  attempts = 0;
  state.textContent = "live";
}

function button(text, method, path) {
  const made = document.createElement("button");
  made.textContent = text;
  made.onclick = () => ask(method, path);
  return made;
}

// Sends a request. Returns whether it succeeded; otherwise shows why not.
async function ask(method, path, body) {
  try {
    const response = await fetch(path, { method, body });
    if (!response.ok) state.textContent = (await response.text()) || `The server answered ${response.status}.`;
    return response.ok;
  } catch {
    state.textContent = "No connection; nothing was changed.";
    return false;
  }
}

add.onsubmit = async (event) => {
  event.preventDefault();
  if (await ask("POST", "/notes", new URLSearchParams(new FormData(add)))) add.reset();
};

connect();
