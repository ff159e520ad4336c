//! The hand-off of a socket from ripplecast's own server to a shard.
//!
//! hyper reads a request and the application accepts it. hyper releases the socket before it writes
//! anything, and the shard writes the head of the response first. A client that receives it is
//! therefore already a member of the hub.

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
    engine::{Command, Encoding, NewConnection, Permit, Route},
    relay,
};

/// A connection that waits for its socket. Boxed, because every request of a server has space for one.
pub(crate) struct PendingConnection {
    pub(crate) hub: Hub,
    pub(crate) route: Arc<Route>,
    pub(crate) encoding: Encoding,
    pub(crate) permit: Permit,
    /// Values to store with the connection.
    pub(crate) states: Vec<Arc<dyn Any + Send + Sync>>,
}

impl PendingConnection {
    /// Hands the socket to a shard. `rest` is what was read after the request, `preface` is written first.
    pub(crate) fn begin(self, wire: TcpStream, rest: Bytes, preface: Vec<u8>) {
        let Self { hub, route, encoding, permit, states } = self;
        let connection =
            NewConnection { wire, rest, preface: preface.into(), encoding, route, permit, states };
        let open = Command::Open(Box::new(connection));
        if let Err(Command::Open(connection)) = hub.local_node().next_shard().mailbox().try_post(open) {
            connection.refuse();
        }
    }
}

/// A request extension set by ripplecast's own server for requests on a raw socket. An endpoint that accepts
/// the request uses it to ask for the socket.
#[derive(Clone, Default)]
pub(crate) struct HandOff(Arc<Mutex<Option<SocketRequest>>>);

/// A response extension: the response has an outbox, so its reader may be slow.
#[derive(Clone, Copy)]
pub(crate) struct OwnPace;

/// A request for the socket.
enum SocketRequest {
    /// By a WebSocket.
    Upgrade(Box<PendingConnection>),
    /// By an event stream.
    Stream {
        /// Shared with the body of the response, which uses a socket pair if the connection is not handed off.
        pending: Weak<Mutex<Option<Box<PendingConnection>>>>,
        /// The first frame of that body.
        greeting: Bytes,
    },
}

/// A granted request for the socket.
pub(crate) struct HandedOff {
    pub(crate) pending: Box<PendingConnection>,
    /// Written first: the head of the response, which hyper has not written, and the start of its body.
    pub(crate) preface: Vec<u8>,
}

impl HandOff {
    /// Asks for the socket of a response with 101.
    pub(crate) fn ask(&self, pending: Box<PendingConnection>) {
        *self.0.lock() = Some(SocketRequest::Upgrade(pending));
    }

    /// Returns the connection that asked for the socket, unless a layer around the endpoint has changed the
    /// response, or has changed the body of an event stream, such as by compressing it. In that case hyper
    /// sends the layer's response.
    ///
    /// This polls the body of the response.
    pub(crate) fn grant(&self, response: &mut Response, cx: &mut Context<'_>) -> Option<HandedOff> {
        let asked = self.0.lock().take()?;
        match asked {
            SocketRequest::Upgrade(pending) => {
                let is_answer = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                is_answer.then(|| HandedOff { pending, preface: head(response) })
            }
            SocketRequest::Stream { pending, greeting } => {
                let pending = pending.upgrade()?; // `None` if the body has been dropped
                let kind = response.headers().get(header::CONTENT_TYPE);
                let is_answer = response.status() == StatusCode::OK
                    && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
                if !is_answer || !begins_with(response.body_mut(), &greeting, cx) {
                    return None;
                }
                let mut pending = pending.lock().take()?;
                pending.encoding = Encoding::SseChunked;
                let mut preface = head(response);
                pending.encoding.encode_raw(&greeting, &mut preface);
                Some(HandedOff { pending, preface })
            }
        }
    }
}

/// Returns the body of an event stream that starts with `greeting`. Under ripplecast's own server, it asks
/// `hand_off` for the socket. If that is not granted, the connection starts when the body is polled again,
/// through a socket pair.
pub(crate) fn stream(pending: Box<PendingConnection>, greeting: String, hand_off: Option<HandOff>) -> Body {
    let (pending, greeting) = (Arc::new(Mutex::new(Some(pending))), Bytes::from(greeting));
    if let Some(HandOff(asked)) = hand_off {
        let (pending, greeting) = (Arc::downgrade(&pending), greeting.clone());
        *asked.lock() = Some(SocketRequest::Stream { pending, greeting });
    }
    relay::body(greeting, move |wire| {
        let pending = pending.lock().take();
        if let Some(pending) = pending {
            pending.begin(wire, Bytes::new(), Vec::new());
        }
    })
}

/// Returns whether the first frame of `body` is `greeting` itself. A layer that compresses, encodes or
/// replaces a body yields a different frame or none; a layer that only observes, such as for a log, forwards
/// the frame. A different frame is put back.
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

/// A body with its first frame put back.
struct Peeked {
    first: Option<Result<Frame<Bytes>, axum::Error>>,
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

/// Encodes the head of a response as hyper would (RFC 9112, sections 2 and 4). A 101 has no body (RFC 9110,
/// section 8.6). An event stream is chunked; its connection now belongs to a shard and is not reused for
/// another request.
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

/// Returns whether a header describes the connection or the encoding of the body, which a layer can't control
/// here.
fn is_framing(name: &HeaderName) -> bool {
    [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name)
        || name == "keep-alive"
}

/// Appends a single `connection` header: `ours`, and the options that layers have set, except those about
/// persistence.
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
