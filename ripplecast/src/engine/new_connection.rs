//! A new connection, passed from the HTTP server to a shard.

use std::{
    any::Any,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
};

use bytes::Bytes;

use super::{admission::Permit, batch::Encoding, route::Route};
use crate::{CloseCode, codec, limits::READS_PER_TURN, panics::guarded, response::STOPPING};

/// The socket of a connection.
pub(crate) type ConnectionSocket = TcpStream;

/// Everything that a shard needs to take over a socket.
pub(crate) struct NewConnection<W> {
    /// The socket, non-blocking.
    pub(crate) wire: W,
    /// Bytes that the peer sent right behind its request.
    pub(crate) rest: Bytes,
    /// Bytes to be written first, such as the head of an event stream.
    pub(crate) preface: Bytes,
    /// How its frames are encoded.
    pub(crate) encoding: Encoding,
    pub(crate) route: Arc<Route>,
    pub(crate) permit: Permit,
    /// Values that the upgrade hook stores with the connection.
    pub(crate) states: Vec<Arc<dyn Any + Send + Sync>>,
}

impl NewConnection<TcpStream> {
    /// Answers an accepted peer that no shard takes because the node is shutting down: with 503 if it has no answer
    /// yet, or with close code 1001 if it is a WebSocket that was upgraded. No callback was called for it.
    pub(crate) fn refuse(self) {
        let Self { wire, preface, encoding, states, .. } = self;
        let mut answer = Vec::new();
        if !preface.is_empty() {
            let head = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5\r\n\
                        content-type: text/plain; charset=utf-8\r\n";
            let length = STOPPING.len();
            answer = format!("{head}content-length: {length}\r\n\r\n{STOPPING}").into_bytes();
        } else if !encoding.is_stream() {
            codec::encode_close(
                &mut answer,
                CloseCode::GOING_AWAY.on_the_wire(),
                "the server is shutting down",
            );
        }
        // The first bytes fit into a socket, and a disconnected peer needs no answer.
        let _ = (&wire).write_all(&answer);
        let _ = wire.shutdown(Shutdown::Write);
        // With unread input, the kernel would reset the connection, and the answer might be lost.
        let mut unread = [0; 4096];
        for _ in 0..READS_PER_TURN {
            if !matches!((&wire).read(&mut unread), Ok(1..)) {
                break;
            }
        }
        drop(wire);
        guarded(move || drop(states)); // application code
    }
}
