// Places orders, and shows the shop's notifications.

const [order, state, lines] = ["order", "state", "lines"].map((id) => document.getElementById(id));

function connect() {
  const socket = new WebSocket(`${location.origin.replace("http", "ws")}/news`);
  socket.onopen = () => (state.textContent = `You are ${user}.`);
  socket.onmessage = ({ data }) => {
    const line = document.createElement("li");
    line.textContent = data;
    lines.prepend(line);
  };
  socket.onclose = () => {
    state.textContent = "Connection lost. Reconnecting …";
    setTimeout(connect, 2000 + 2000 * Math.random());
  };
}

order.onsubmit = async (event) => {
  event.preventDefault();
  const response = await fetch("/orders", { method: "POST" });
  if (!response.ok) state.textContent = await response.text();
};

const user = await (await fetch("/me")).text();
if (user) connect();
