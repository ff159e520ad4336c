//! WebSocket endpoints, from real sockets, with clients that we did not write.

/// Closing, by either side, in order and out of it.
mod close;
/// Compressed messages.
mod deflate;
/// An upgraded stream that is no TCP socket.
mod driven;
/// The opening handshake, and who gets in.
mod handshake;
/// Ids, shutdown, threads, and how many there may be.
mod life;
/// Messages back and forth, and frames that break the protocol.
mod messages;
/// Exactly one `on_close` for each `on_open`.
mod once;
/// The order of one connection's messages, and handlers that wait.
mod order;
/// Peers that read too slowly or send too much.
mod overload;
/// Faults that reviews have found, so that they stay away.
mod review;
/// Slow readers under every policy, and the bound on what waits for all.
mod slow;
/// Looking into one connection.
mod tap;
/// Keep-alive, and messages that are never finished.
mod time;
