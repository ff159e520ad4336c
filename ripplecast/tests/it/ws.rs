//! WebSocket endpoints, tested with real sockets and third-party clients.

/// Closing, by either side, orderly or not.
mod close;
/// Compressed messages.
mod deflate;
/// The opening handshake and its checks.
mod handshake;
/// Callbacks for messages in JSON.
mod json;
/// Ids, shutdown, threads and limits of connections.
mod life;
/// Messages in both directions, and frames that violate the protocol.
mod messages;
/// Exactly one `on_close` for each `on_open`.
mod once;
/// The order of one connection's messages, and handlers that wait.
mod order;
/// Peers that read too slowly or send too much.
mod overload;
/// An upgraded stream that is not a TCP socket.
mod relay;
/// Regression tests for faults found in reviews.
mod review;
/// Slow readers under every policy, and the limit on all queued bytes.
mod slow;
/// Taps.
mod tap;
/// Keep-alive, and unfinished messages.
mod time;
