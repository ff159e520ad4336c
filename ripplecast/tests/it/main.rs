//! The integration tests, in one binary, so that it is linked once. All tests use the public API and real
//! sockets.

/// The API around rooms: ids, users, state, the app, calls from callbacks.
mod api;
/// The bus: publish, subscribe, patterns, overload.
mod bus;
/// `ripplecast::test`: the clients for the tests of applications.
mod client;
/// A server, a scripted handler and clients, for rooms, streams and the API.
mod clients;
/// The codec compared with tungstenite's on the same bytes.
mod codec;
/// The documents: every list in them is complete, and every Rust block compiles.
mod docs;
/// The layers of the crate, read from its imports.
mod layers;
/// Several nodes on one Redis: rooms, users, the registry, the bus, and outages of Redis.
mod nodes;
/// Streams: messages that are delivered at least once.
mod queues;
/// Redis, started by the tests.
mod redis;
/// Rooms: membership, one order, snapshots, overload.
mod rooms;
/// `ripplecast::serve`, and a shutdown that waits for nobody.
mod serve;
/// The accept loop: header limits, shutdown, extractors.
mod server;
/// Server-Sent Events, read as a browser does.
mod sse_stream;
/// Counters and tables.
mod state;
/// A server, third-party clients, and waiting that does not depend on timing.
mod support;
/// TLS of our own server, and certificates that change at run time.
mod tls;
/// WebSocket endpoints: the handshake, messages, closing, order, limits, shutdown.
mod ws;
