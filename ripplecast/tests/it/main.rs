//! The integration tests: one binary, so that it links once. Everything goes through the public API and real sockets.

/// The API around rooms: ids, clients, state, the app, calls from callbacks.
mod api;
/// The bus: publish, subscribe, patterns, overload.
mod bus;
/// A server, a scripted handler and clients, for rooms, streams and the API.
mod clients;
/// The codec beside tungstenite's, on the same bytes.
mod codec;
/// The documents: every list in them is whole, and every Rust block is compiled.
mod docs;
/// Several nodes on one Redis: rooms, clients, the registry, the bus, and Redis going away.
mod nodes;
/// Redis, started by the tests.
mod redis;
/// Rooms: membership, one order, snapshots, overload.
mod rooms;
/// The accept loop: header limits, shutdown, extractors.
mod server;
/// Server-Sent Events, read as a browser does.
mod sse_stream;
/// Counters and tables.
mod store;
/// Streams: messages that are delivered at least once.
mod streams;
/// A server, clients that we did not write, and waiting that no timing decides.
mod support;
/// TLS of our own server, and certificates that change while it runs.
mod tls;
/// WebSocket endpoints: the handshake, messages, closing, order, limits, shutdown.
mod ws;
