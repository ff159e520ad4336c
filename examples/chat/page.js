// The chat's page: comes in, shows what is said, and comes back by itself when the connection is lost.

const [enter, say, state, lines] = ["enter", "say", "state", "lines"].map((id) => document.getElementById(id));
const KEPT = 500; // lines on the page at the most
let socket = null;

function connect(room, name) {
  const query = new URLSearchParams({ name });
  const origin = location.origin.replace("http", "ws");
  socket = new WebSocket(`${origin}/rooms/${encodeURIComponent(room)}?${query}`);
  socket.onopen = () => (state.textContent = `You are in ${room}.`);
  socket.onmessage = ({ data }) => show(JSON.parse(data));
  socket.onclose = () => {
    state.textContent = "The connection is lost; trying again …";
    setTimeout(connect, 500 + 2000 * Math.random(), room, name); // not all in the same moment
  };
}

// As text, never as HTML: what others say is not to be believed.
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
  if (socket.readyState !== WebSocket.OPEN) return; // what was written stays, until it can be said
  socket.send(text.value);
  text.value = "";
};
