//! Server-Sent Events: the hub's rooms for pages that only receive.
//!
//! An event stream is a [`Connection`] like a WebSocket: it has an id, joins rooms, can be pushed to, and has
//! the same bounded outbox. Messages are written in the format of the HTML standard, section 9.2, which a
//! browser's `EventSource` reads: text as `data:` lines, bytes as base64, each under the event name set with
//! [`Message::with_event`](crate::Message::with_event) (bytes without one are `binary`). Messages of a room carry
//! `id: epoch:offset`, where `offset` counts the room's messages, and `epoch` changes when the room is
//! forgotten or the server restarts. (Resuming from such an id will come in a later version.)
//!
//! **Cost.** Under ripplecast's own server ([`App::run`](crate::App::run)) a stream is as cheap as a
//! WebSocket: the server takes the socket from hyper. With TLS or your own `axum::serve`, a handler has no
//! way to take the socket of a plain response. There hyper keeps the connection, and a socket pair feeds its
//! body: some KiB and two more file descriptors per stream. See `docs/performance.md` for figures. For a
//! stream that belongs to one request, such as the words of one answer, use axum's own
//! `axum::response::sse::Sse`.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract,
    response::{IntoResponse, Response},
    routing::MethodRouter,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header;

use crate::{
    Accept, Connection, Hub, IntoAccept, LiveCounter, Overflow, Request, Result,
    engine::{Encoding, EndpointPath, MessageKinds, OutboxPolicy, Route},
    hand_off::{self, HandOff, OwnPace, PendingConnection},
    limits::{OUTBOX, PING_INTERVAL, PING_INTERVAL_MAX},
    log::{cut, limited},
    request::{self, Hook, admit, decide, hook},
    response::plain,
    ws::{Handler, Outcome, callbacks, has_content},
};

/// Default reconnection delay of a browser, sent in the stream's first line.
const RETRY: Duration = Duration::from_secs(3);

/// What a stream sends; stored with its connection.
enum StreamSource {
    /// The messages of a room.
    Room(String),
    /// The values of a counter, starting with the current one.
    Counter(LiveCounter),
}

impl StreamSource {
    /// Returns the room that a stream joins.
    fn room(&self) -> &str {
        match self {
            Self::Room(name) => name,
            Self::Counter(counter) => counter.room().name(),
        }
    }

    /// Joins the room so that pushes from all nodes arrive: a state pushed afterwards misses nothing.
    async fn join(&self, conn: &Connection) -> Result<()> {
        match self {
            Self::Room(name) => conn.join_confirmed(name).await.map(|_| ()),
            Self::Counter(counter) => counter.join(conn).await,
        }
    }
}

/// Returns what to send for a request.
type SourceOf = Arc<dyn Fn(&Request) -> Option<StreamSource> + Send + Sync>;
/// Called when a stream is open.
type OnOpen = Arc<dyn Fn(Connection) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// An event stream endpoint. All settings have safe defaults.
///
/// ```
/// # async fn example(hub: ripplecast::Hub) -> ripplecast::Result<()> {
/// use axum::http::StatusCode;
/// use ripplecast::{Accept, Connection, Request, sse};
///
/// let news = hub.sse::<()>("news"); // every message of one room
///
/// let orders = sse::room_by(|request: &Request| Some(format!("order:{}", request.param("id")?)))
///     .on_request(|request: Request| async move {
///         request.cookie("session").map(|_| Accept::new()).ok_or(StatusCode::UNAUTHORIZED)
///     })
///     .on_open(|conn: Connection| async move { conn.push("welcome").ignore() });
/// let router: axum::Router = axum::Router::new().route("/orders/{id}/events", hub.sse(orders));
/// # let _ = (news, router); Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "an endpoint does nothing until it is given to App::sse or Hub::sse"]
pub struct Endpoint {
    source: SourceOf,
    hook: Option<Hook>,
    /// Called after the stream has joined its room.
    on_open: Option<OnOpen>,
    /// Interval of comments on a silent stream.
    keep_alive: Option<Duration>,
    /// Reconnection delay of the browser.
    retry: Duration,
    policy: OutboxPolicy,
}

/// Creates an endpoint for the messages of one room.
pub fn room(name: impl Into<String>) -> Endpoint {
    let name = name.into();
    room_by(move |_| Some(name.clone()))
}

/// Creates an endpoint for the messages of a room that depends on the request, such as on its path. `None` is
/// answered with 404.
pub fn room_by(room: impl Fn(&Request) -> Option<String> + Send + Sync + 'static) -> Endpoint {
    Endpoint::new(move |request| room(request).map(StreamSource::Room))
}

/// Creates an endpoint for the values of a counter that depends on the request: the current one at once, then
/// each change. `None` is answered with 404.
///
/// ```
/// # use std::{collections::HashMap, sync::Arc};
/// # fn example(hub: ripplecast::Hub, jobs: HashMap<String, ripplecast::LiveCounter>) {
/// use ripplecast::{Request, sse};
///
/// let progress = sse::counter_by(move |request: &Request| jobs.get(request.param("id")?).cloned());
/// let router: axum::Router = axum::Router::new().route("/jobs/{id}/events", hub.sse(progress));
/// # let _ = router; }
/// ```
pub fn counter_by(counter: impl Fn(&Request) -> Option<LiveCounter> + Send + Sync + 'static) -> Endpoint {
    Endpoint::new(move |request| counter(request).map(StreamSource::Counter))
}

impl Endpoint {
    /// Creates an endpoint with the default settings.
    fn new(source: impl Fn(&Request) -> Option<StreamSource> + Send + Sync + 'static) -> Self {
        Self {
            source: Arc::new(source),
            hook: None,
            on_open: None,
            keep_alive: Some(PING_INTERVAL),
            retry: RETRY,
            policy: OutboxPolicy {
                outbox: OUTBOX,
                overflow: Overflow::default(),
                compress_above: usize::MAX,
            },
        }
    }

    /// Sets a hook that accepts a request or rejects it with any response, before the stream begins.
    pub fn on_request<F, Fut>(mut self, accept: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoAccept> + Send + 'static,
    {
        self.hook = Some(hook(accept));
        self
    }

    /// Sets a callback that runs when the stream is open and has joined its room, such as to send a first
    /// event. To send a current value that is never older than what follows it, use a [`LiveCounter`] as the
    /// endpoint.
    pub fn on_open<F, Fut>(mut self, on_open: F) -> Self
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        self.on_open = Some(Arc::new(move |conn| {
            let opened = on_open(conn);
            Box::pin(async move { opened.await.into_result() })
        }));
        self
    }

    /// Sets how long a stream may be silent before a comment is sent, which makes proxies keep it open;
    /// default 25 s. Zero sends none; the maximum is one day.
    ///
    /// A client can't answer a comment. On Linux, the kernel drops a dead client's connection once it has
    /// acknowledged nothing for 75 s. This applies to sockets handed off to a shard; elsewhere the
    /// underlying server decides.
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = Some(interval.min(PING_INTERVAL_MAX)).filter(|interval| !interval.is_zero());
        self
    }

    /// Sets the browser's reconnection delay; default 3 s.
    pub fn retry(mut self, time: Duration) -> Self {
        self.retry = time;
        self
    }

    /// Sets how many bytes may wait for a slow client; default 1 MiB.
    pub fn outbox(mut self, bytes: usize) -> Self {
        self.policy.outbox = bytes;
        self
    }

    /// Sets what happens when the outbox is full; default [`Overflow::Disconnect`], which ends the stream.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.policy.overflow = overflow;
        self
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("keep_alive", &self.keep_alive)
            .field("retry", &self.retry)
            .field("outbox", &self.policy.outbox)
            .field("overflow", &self.policy.overflow)
            .finish_non_exhaustive()
    }
}

impl From<&str> for Endpoint {
    fn from(name: &str) -> Self {
        room(name)
    }
}

impl From<String> for Endpoint {
    fn from(name: String) -> Self {
        room(name)
    }
}

/// The values of a counter: the current one at once, then each change.
impl From<&LiveCounter> for Endpoint {
    fn from(counter: &LiveCounter) -> Self {
        let counter = counter.clone();
        counter_by(move |_| Some(counter.clone()))
    }
}

/// The callbacks of an event stream.
struct StreamCallbacks {
    /// See [`Endpoint::on_open`].
    on_open: Option<OnOpen>,
}

impl Handler for StreamCallbacks {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        if let Some(source) = conn.state::<StreamSource>() {
            source.join(&conn).await?;
        }
        match &self.on_open {
            Some(on_open) => on_open(conn).await,
            None => Ok(()),
        }
    }
}

impl Hub {
    /// Returns an event stream as a route for any axum application: that of a room by its name, of a
    /// [`LiveCounter`], or of an [`Endpoint`] with settings and hooks.
    pub fn sse<S>(&self, endpoint: impl Into<Endpoint>) -> MethodRouter<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let endpoint = endpoint.into();
        let stream = Arc::new(StreamCallbacks { on_open: endpoint.on_open.clone() });
        let route = Arc::new(Route {
            id: self.next_route(),
            path: EndpointPath::default(),
            accepts: MessageKinds::default(),
            max_message: 0,
            message_timeout: Duration::MAX,
            ping_interval: endpoint.keep_alive,
            pong_timeout: None, // nothing can answer
            policy: endpoint.policy,
            callbacks: callbacks(self.local_node(), stream),
        });
        let (hub, endpoint) = (self.clone(), Arc::new(endpoint));
        axum::routing::get(move |request: extract::Request| {
            open(hub.clone(), endpoint.clone(), route.clone(), request)
        })
    }
}

/// Answers a request for an event stream.
async fn open(hub: Hub, endpoint: Arc<Endpoint>, route: Arc<Route>, request: extract::Request) -> Response {
    let head = request.method() == http::Method::HEAD;
    // hyper must read a request's body: on a shard's socket, anything the client sends ends the stream.
    let has_body = has_content(request.headers());
    let hand_off = request.extensions().get::<HandOff>().filter(|_| !has_body).cloned();
    let (parts, _) = request.into_parts();
    request::note_path(&route, &parts);
    let peer = match request::peer(&hub, &parts) {
        Ok(peer) => peer,
        Err(bad) => return bad.into(),
    };
    let request = match Request::new(peer, parts).await {
        Ok(request) => request,
        Err(response) => return response,
    };
    let Some(source) = (endpoint.source)(&request) else {
        return plain(404, "This event stream does not exist.\n");
    };
    if let Err(error) = crate::name::check_name("room", source.room()) {
        limited!(DEBUG, error = %cut(error), "an event stream was rejected");
        return plain(404, "This event stream does not exist.\n");
    }
    let permit = match admit(&hub, &request.peer) {
        Ok(permit) => permit,
        Err(response) => return response,
    };
    let mut accept = match &endpoint.hook {
        None => Accept::new(),
        Some(hook) => match decide(&hub, hook, request).await {
            Ok(accept) => accept,
            Err(response) => return response,
        },
    };
    accept = accept.state(source);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        // Otherwise nginx buffers events.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    if head {
        // Of unknown length, as for GET; an empty body would have a length.
        let body = Body::from_stream(futures_util::stream::empty::<Result<Bytes, Infallible>>());
        return (headers, body).into_response();
    }
    let pending =
        Box::new(PendingConnection { hub, route, encoding: Encoding::Sse, permit, states: accept.states });
    let greeting = format!("retry: {}\n\n", endpoint.retry.as_millis());
    (headers, Extension(OwnPace), hand_off::stream(pending, greeting, hand_off)).into_response()
}
