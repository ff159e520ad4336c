// The chat's page: joins a room, shows its messages, and reconnects automatically.

const [enter, say, state, lines] = ["enter", "say", "state", "lines"].map((id) => document.getElementById(id));
const KEPT = 500; // the most messages kept on the page
let socket = null;

function connect(room, name) {
  const query = new URLSearchParams({ name });
  const origin = location.origin.replace("http", "ws");
  socket = new WebSocket(`${origin}/rooms/${encodeURIComponent(room)}?${query}`);
  socket.onopen = () => (state.textContent = `You are in ${room}.`);
  socket.onmessage = ({ data }) => show(JSON.parse(data));
  socket.onclose = () => {
    state.textContent = "Connection lost. Reconnecting …";
    setTimeout(connect, 500 + 2000 * Math.random(), room, name); // not all pages at the same moment
  };
}

// As text, never as HTML: messages come from others.
function show({ from, text }) {
  const line = document.createElement("li");
  const name = document.createElement("strong");
  name.textContent = from;
  line.append(name, text);
  lines.prepend(line);
  if (lines.children.length > KEPT) lines.lastChild.remove();
}

enter.onsubmit = (event) => {
  event.preventDefault();
  const { room, name } = Object.fromEntries(new FormData(enter));
  enter.hidden = true;
  say.hidden = false;
  say.elements.text.focus();
  connect(room, name);
};

say.onsubmit = (event) => {
  event.preventDefault();
  const { text } = say.elements;
  if (socket.readyState !== WebSocket.OPEN) return; // the text stays in the field until it can be sent
  socket.send(text.value);
  text.value = "";
};
