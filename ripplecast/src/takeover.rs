//! The way of a socket from ripplecast's own server to a shard.
//!
//! hyper reads a request and the application accepts it. Then the socket is taken from hyper, which has not written a byte,
//! and the head of the response is the first thing that the shard writes: whoever has read it is a member of the hub
//! already. Other servers hand their sockets over by hyper's `OnUpgrade`, or by the body of the response.

use std::{any::Any, net::TcpStream, sync::Arc, time::SystemTime};

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, StatusCode, header};
use parking_lot::Mutex;

use crate::{
    Hub,
    hub::{Adoption, Command, Dialect, Permit, Route},
};

/// An accepted connection that waits for its socket. It is boxed, since every request of a server has room for one.
pub(crate) struct Accepted {
    /// Where it goes.
    pub(crate) hub: Hub,
    /// The endpoint, as the shards know it.
    pub(crate) route: Arc<Route>,
    /// How its frames are encoded.
    pub(crate) dialect: Dialect,
    /// Its place among the connections.
    pub(crate) permit: Permit,
    /// What is to be kept with the connection.
    pub(crate) states: Vec<Arc<dyn Any + Send + Sync>>,
    /// What it is told first.
    pub(crate) greeting: String,
}

impl Accepted {
    /// Hands the socket to a shard, with what was read from it behind the request. `head` is written first.
    pub(crate) fn begin(self, wire: TcpStream, rest: Bytes, mut head: Vec<u8>) {
        let Self { hub, route, dialect, permit, states, greeting } = self;
        head.extend_from_slice(greeting.as_bytes());
        let adoption = Adoption { wire, rest, preface: head.into(), dialect, route, permit, states };
        hub.shards().next().mailbox.post(Command::Adopt(Box::new(adoption)));
    }

    /// Whether this is the answer that it was accepted with, and not one that a layer around the endpoint gave instead.
    fn is_answered_by(&self, response: &Response) -> bool {
        match self.dialect {
            Dialect::WebSocket | Dialect::Deflate => response.status() == StatusCode::SWITCHING_PROTOCOLS,
            Dialect::Sse => {
                let kind = response.headers().get(header::CONTENT_TYPE);
                response.status() == StatusCode::OK
                    && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
            }
        }
    }
}

/// Among the extensions of a request that ripplecast's own server has read from a bare socket: an endpoint that accepts
/// the request leaves here what waits for the socket.
#[derive(Clone, Default)]
pub(crate) struct Takeover(Arc<Mutex<Option<Box<Accepted>>>>);

impl Takeover {
    /// Asks for the socket.
    pub(crate) fn ask(&self, accepted: Box<Accepted>) {
        *self.0.lock() = Some(accepted);
    }

    /// Who has asked for the socket, if `response` goes with it.
    pub(crate) fn asked(&self, response: &Response) -> Option<Box<Accepted>> {
        self.0.lock().take().filter(|accepted| accepted.is_answered_by(response))
    }
}

/// The head of a response, as hyper would write it (RFC 9112, sections 2 and 4). There is no length and there are no chunks:
/// a 101 has no body (RFC 9110, section 8.6), and an event stream lasts as long as its connection (RFC 9112, section 6.3).
pub(crate) fn head(response: &Response) -> Vec<u8> {
    let mut head = Vec::with_capacity(192); // most are shorter
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        head.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    } else {
        head.extend_from_slice(b"HTTP/1.1 200 OK\r\nconnection: close\r\ndate: ");
        head.extend_from_slice(httpdate::HttpDate::from(SystemTime::now()).to_string().as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    // axum has measured a body that is empty here.
    let body = |name: &HeaderName| *name == header::CONTENT_LENGTH || *name == header::TRANSFER_ENCODING;
    for (name, value) in response.headers().iter().filter(|(name, _)| !body(name)) {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}
