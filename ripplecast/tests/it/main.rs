//! The integration tests: one binary, so that it links once. Everything goes through the public API and real sockets.

/// The bus: publish, subscribe, patterns, overload.
mod bus;
/// The codec beside tungstenite's, on the same bytes.
mod codec;
/// The accept loop: header limits, shutdown, extractors.
mod server;
/// Counters and tables.
mod store;
