// Bun's own publish and subscribe, as its documentation shows. The argument is the port.
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  idleTimeout: 0,
  fetch(request, server) {
    const echo = new URL(request.url).pathname === "/echo";
    if (server.upgrade(request, { data: { echo } })) return;
    return new Response("expected a WebSocket upgrade", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    maxPayloadLength: 16 << 20,
    backpressureLimit: 64 << 20,
    open(socket) {
      if (!socket.data.echo) socket.subscribe("everyone");
    },
    message(socket, message) {
      if (socket.data.echo) socket.send(message);
      else server.publish("everyone", message);
    },
  },
});
