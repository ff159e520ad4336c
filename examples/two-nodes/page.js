// Shows the messages of all nodes, and the node that sent each one.

const [say, state, lines] = ["say", "state", "lines"].map((id) => document.getElementById(id));
const KEPT = 500; // the most messages kept on the page
let socket = null;

function connect() {
  socket = new WebSocket(`${location.origin.replace("http", "ws")}/ws`);
  socket.onmessage = ({ data }) => show(JSON.parse(data));
  socket.onclose = () => {
    state.textContent = "Connection lost. Reconnecting …";
    setTimeout(connect, 500 + 2000 * Math.random());
  };
}

function show({ from, text, pages, nodes }) {
  state.textContent = `Open pages: ${pages}, on ${nodes} nodes.`;
  const line = document.createElement("li");
  const node = document.createElement("code");
  node.textContent = from.slice(0, 6);
  line.append(node, text);
  lines.prepend(line);
  if (lines.children.length > KEPT) lines.lastChild.remove();
}

say.onsubmit = (event) => {
  event.preventDefault();
  const { text } = say.elements;
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.send(text.value);
  text.value = "";
};

connect();
