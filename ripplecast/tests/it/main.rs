//! The integration tests: one binary, so that it links once. Everything goes through the public API and real sockets.

/// The bus: publish, subscribe, patterns, overload.
mod bus;
/// A server, a scripted handler and clients, for rooms, streams and the API.
mod clients;
/// The codec beside tungstenite's, on the same bytes.
mod codec;
/// Rooms: membership, one order, snapshots, overload.
mod rooms;
/// The accept loop: header limits, shutdown, extractors.
mod server;
/// Counters and tables.
mod store;
