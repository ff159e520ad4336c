// Node.js with ws: a loop over all clients, as its README shows. The argument is the port.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  backlog: 4096,
  perMessageDeflate: false,
});

server.on("connection", (socket, request) => {
  const echo = request.url === "/echo";
  socket.on("error", () => {}); // A finished load resets its connections.
  socket.on("message", (data) => {
    if (echo) {
      socket.send(data, { binary: false });
      return;
    }
    for (const client of server.clients) {
      if (client.readyState === 1) client.send(data, { binary: false });
    }
  });
});
