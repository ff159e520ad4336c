// The board's page. What the server says is what is shown; the buttons only ask it.

const [add, state, notes] = ["add", "state", "notes"].map((id) => document.getElementById(id));
const RETRY_MAX = 15_000; // ms: the longest wait between two attempts
let attempts = 0; // failures in a row
let seen = null; // the notes that the server has named since the socket opened, until it has named all

function connect() {
  const socket = new WebSocket(`${location.origin.replace("http", "ws")}/live`);
  socket.onopen = () => (seen = new Set());
  socket.onmessage = ({ data }) => {
    const news = JSON.parse(data);
    if (news.complete) complete();
    else show(news);
  };
  socket.onclose = () => {
    state.textContent = "The connection is lost; trying again …";
    // Longer after each failure, and by chance, so that a thousand pages do not return in the same moment.
    setTimeout(connect, 200 + Math.random() * Math.min(RETRY_MAX, 1000 * 2 ** attempts++));
  };
}

// A note that is new, or has changed; or which has gone, when `row` is null.
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
  text.textContent = row.text; // never as HTML: anybody may have written it
  like.textContent = `♥ ${row.likes}`;
  like.ariaLabel = `Like, ${row.likes} so far: ${row.text}`;
  remove.ariaLabel = `Remove: ${row.text}`;
}

// The newest first; the server names them in any order.
function place(note, key) {
  note.dataset.key = key;
  const next = [...notes.children].find(({ dataset }) => Number(dataset.key) < key);
  notes.insertBefore(note, next ?? null);
}

// The server has named all that it has. What it did not name was removed while we were away.
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

// Whether the server has done it; else it says why not.
async function ask(method, path, body) {
  try {
    const response = await fetch(path, { method, body });
    if (!response.ok) state.textContent = (await response.text()) || `The server answered ${response.status}.`;
    return response.ok;
  } catch {
    state.textContent = "There is no connection; nothing was changed.";
    return false;
  }
}

add.onsubmit = async (event) => {
  event.preventDefault();
  if (await ask("POST", "/notes", new URLSearchParams(new FormData(add)))) add.reset();
};

connect();
