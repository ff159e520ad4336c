//! The way of a socket from ripplecast's own server to a shard.
//!
//! hyper reads a request and the application accepts it. Then the socket is taken from hyper, which has not written a byte,
//! and the head of the response is the first thing that the shard writes: whoever has read it is a member of the hub
//! already. Other servers hand their sockets over by hyper's `OnUpgrade`, or by the body of the response.

use std::{
    any::Any,
    net::TcpStream,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::SystemTime,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use hyper::body::{Body as _, Frame};
use parking_lot::Mutex;

use crate::{
    Hub,
    engine::{Adoption, Command, Dialect, Permit, Route},
    relay,
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
}

impl Accepted {
    /// Hands the socket to a shard, with what was read from it behind the request. `preface` is written first.
    pub(crate) fn begin(self, wire: TcpStream, rest: Bytes, preface: Vec<u8>) {
        let Self { hub, route, dialect, permit, states } = self;
        let adoption = Adoption { wire, rest, preface: preface.into(), dialect, route, permit, states };
        let adopt = Command::Adopt(Box::new(adoption));
        if let Err(Command::Adopt(adoption)) = hub.shards().next().mailbox.try_post(adopt) {
            adoption.refuse();
        }
    }
}

/// Among the extensions of a request that ripplecast's own server has read from a bare socket: an endpoint that accepts
/// the request leaves here what waits for the socket.
#[derive(Clone, Default)]
pub(crate) struct Takeover(Arc<Mutex<Option<Ask>>>);

/// Among the extensions of a response whose reader is bounded by an outbox, however slow it is.
#[derive(Clone, Copy)]
pub(crate) struct OwnPace;

/// Who asks for a socket.
enum Ask {
    /// A WebSocket.
    Upgrade(Box<Accepted>),
    /// An event stream.
    Stream {
        /// Shared with the body of the response, which gets a socket pair where it is not taken out of here.
        accepted: Weak<Mutex<Option<Box<Accepted>>>>,
        /// The first frame of that body.
        greeting: Bytes,
    },
}

/// An accepted connection that gets the socket.
pub(crate) struct Taken {
    /// The connection.
    pub(crate) accepted: Box<Accepted>,
    /// What is written first: the head of the response, which hyper has not written, and the beginning of its body.
    pub(crate) preface: Vec<u8>,
}

impl Takeover {
    /// Asks for the socket behind a 101.
    pub(crate) fn ask(&self, accepted: Box<Accepted>) {
        *self.0.lock() = Some(Ask::Upgrade(accepted));
    }

    /// Decides whether the socket goes to the connection that has asked for it. It does not if a layer around the endpoint
    /// has given another answer, or has changed the body of an event stream, such as by compressing it: hyper sends what
    /// the layer has made.
    ///
    /// Polls the body of a response to find that out.
    pub(crate) fn taken(&self, response: &mut Response, cx: &mut Context<'_>) -> Option<Taken> {
        let asked = self.0.lock().take()?;
        match asked {
            Ask::Upgrade(accepted) => {
                let is_answer = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                is_answer.then(|| Taken { accepted, preface: head(response) })
            }
            Ask::Stream { accepted, greeting } => {
                let accepted = accepted.upgrade()?; // otherwise the body has been dropped
                let kind = response.headers().get(header::CONTENT_TYPE);
                let is_answer = response.status() == StatusCode::OK
                    && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
                if !is_answer || !begins_with(response.body_mut(), &greeting, cx) {
                    return None;
                }
                let mut accepted = accepted.lock().take()?;
                accepted.dialect = Dialect::SseChunked;
                let mut preface = head(response);
                accepted.dialect.encode_raw(&greeting, &mut preface);
                Some(Taken { accepted, preface })
            }
        }
    }
}

/// The body of an event stream that begins with `greeting`. Under ripplecast's own server, asks `takeover` for the socket.
/// Where that is not granted, the connection begins when the body is read on, behind a socket pair.
pub(crate) fn stream(accepted: Box<Accepted>, greeting: String, takeover: Option<Takeover>) -> Body {
    let (accepted, greeting) = (Arc::new(Mutex::new(Some(accepted))), Bytes::from(greeting));
    if let Some(Takeover(asked)) = takeover {
        let (accepted, greeting) = (Arc::downgrade(&accepted), greeting.clone());
        *asked.lock() = Some(Ask::Stream { accepted, greeting });
    }
    relay::body(greeting, move |wire| {
        let accepted = accepted.lock().take();
        if let Some(accepted) = accepted {
            accepted.begin(wire, Bytes::new(), Vec::new());
        }
    })
}

/// Whether the first frame of `body` is `greeting` itself. A layer that compresses, encodes or replaces a body yields
/// another frame or none; a layer that only observes, such as for a log, passes the frame through. A different frame is
/// put back.
fn begins_with(body: &mut Body, greeting: &Bytes, cx: &mut Context<'_>) -> bool {
    let Poll::Ready(first) = Pin::new(&mut *body).poll_frame(cx) else { return false };
    let data = first.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
    if data.is_some_and(|data| data.as_ptr() == greeting.as_ptr() && data.len() == greeting.len()) {
        return true;
    }
    let rest = std::mem::take(body);
    if first.is_some() {
        *body = Body::new(Peeked { first, rest });
    }
    false
}

/// A body whose first frame has been taken out.
struct Peeked {
    /// The frame.
    first: Option<Result<Frame<Bytes>, axum::Error>>,
    /// What follows.
    rest: Body,
}

impl hyper::body::Body for Peeked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }
}

/// The head of a response, as hyper would write it (RFC 9112, sections 2 and 4). A 101 has no body (RFC 9110, section 8.6).
/// An event stream comes in chunks; its connection belongs to a shard from now on, and is not kept for another request.
fn head(response: &Response) -> Vec<u8> {
    let mut head = Vec::with_capacity(192); // most are shorter
    let headers = response.headers();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        head.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
        connection(headers, "Upgrade", &mut head);
    } else {
        head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        connection(headers, "close", &mut head);
        head.extend_from_slice(b"transfer-encoding: chunked\r\n");
        if !headers.contains_key(header::DATE) {
            head.extend_from_slice(b"date: ");
            head.extend_from_slice(httpdate::HttpDate::from(SystemTime::now()).to_string().as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
    for (name, value) in headers.iter().filter(|(name, _)| !is_framing(name)) {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Whether a header describes the connection or the form of the body, which a layer can no longer decide.
fn is_framing(name: &HeaderName) -> bool {
    [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name)
        || name == "keep-alive"
}

/// Appends the one `connection` header: `ours`, and what layers name in theirs, except whether the connection persists.
fn connection(headers: &HeaderMap, ours: &str, head: &mut Vec<u8>) {
    head.extend_from_slice(b"connection: ");
    head.extend_from_slice(ours.as_bytes());
    let values = headers.get_all(header::CONNECTION).iter();
    for option in values.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')) {
        let option = option.trim_ascii();
        if !["", "close", "keep-alive", "upgrade"]
            .iter()
            .any(|known| option.eq_ignore_ascii_case(known.as_bytes()))
        {
            head.extend_from_slice(b", ");
            head.extend_from_slice(option);
        }
    }
    head.extend_from_slice(b"\r\n");
}
