//! Server-Sent Events: the rooms of the hub, for pages that only listen.
//!
//! An event stream is a [`Connection`] like a WebSocket: it has an id, joins rooms, can be pushed to, and is bounded by the
//! same outbox. What it receives is written in the format of the HTML standard, section 9.2, so that a browser's
//! `EventSource` reads it: text as `data:` lines, bytes as base64, each under the event name that [`Frame::with_event`](crate::Frame::with_event) gave it
//! (bytes without one are `binary`). Messages of a room carry
//! `id: epoch:offset`, where `offset` counts the messages of the room, and `epoch` changes when it is forgotten or the
//! server restarts. (Resuming from such an id comes in a later version.)
//!
//! **Cost.** Under ripplecast's own server ([`App::run`](crate::App::run)) a stream is as cheap as a WebSocket: the server
//! takes the socket from hyper. Elsewhere (your own `axum::serve`, TLS) HTTP has no way for a handler to take the socket of
//! a plain response, so hyper keeps the connection, and its body is fed through a socket pair: some KiB a stream and two
//! more descriptors. `docs/performance.md` has the figures. For streams of one request, such as the words of one answer, use axum's
//! own `axum::response::sse::Sse`.

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
    engine::{Dialect, Profile, Route, Takes},
    hand_off::{self, Accepted, OwnPace, Takeover},
    limits::{OUTBOX, PING_INTERVAL, PING_INTERVAL_MAX},
    log::{cut, limited},
    request::{self, Hook, admit, decide, hook},
    response::plain,
    ws::{Handler, Outcome, callbacks, has_content},
};

/// Time after which a browser whose stream has ended connects again; it is told in the stream's first line.
const RETRY: Duration = Duration::from_secs(3);

/// What a stream is of; kept with its connection.
enum Source {
    /// The messages of a room.
    Room(String),
    /// The values of a counter: the one that it has comes first.
    Counter(LiveCounter),
}

impl Source {
    /// The room that a stream joins.
    fn room(&self) -> &str {
        match self {
            Self::Room(name) => name,
            Self::Counter(counter) => counter.room().name(),
        }
    }

    /// Makes a connection a member that all nodes reach, so that a state which is pushed afterwards lacks nothing.
    async fn join(&self, conn: &Connection) -> Result<()> {
        match self {
            Self::Room(name) => conn.join_confirmed(name).await.map(|_| ()),
            Self::Counter(counter) => counter.join(conn).await,
        }
    }
}

/// Finds what a request asks for.
type SourceOf = Arc<dyn Fn(&Request) -> Option<Source> + Send + Sync>;
/// What is called when a stream is open.
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
    /// What a request asks for.
    source: SourceOf,
    /// Accepts or refuses a request.
    hook: Option<Hook>,
    /// Called when the stream is open and has joined its room.
    on_open: Option<OnOpen>,
    /// Silence after which a comment is sent.
    keep_alive: Option<Duration>,
    /// What the browser is told to wait before it connects again.
    retry: Duration,
    /// Limit of an outbox, and what happens beyond it.
    profile: Profile,
}

/// The messages of one room.
pub fn room(name: impl Into<String>) -> Endpoint {
    let name = name.into();
    room_by(move |_| Some(name.clone()))
}

/// The messages of a room that depends on the request, such as on its path. `None` is answered with 404.
pub fn room_by(room: impl Fn(&Request) -> Option<String> + Send + Sync + 'static) -> Endpoint {
    Endpoint::new(move |request| room(request).map(Source::Room))
}

/// The values of a counter that depends on the request: the one that it has at once, and each change. `None` is answered
/// with 404.
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
    Endpoint::new(move |request| counter(request).map(Source::Counter))
}

impl Endpoint {
    /// With the default settings.
    fn new(source: impl Fn(&Request) -> Option<Source> + Send + Sync + 'static) -> Self {
        Self {
            source: Arc::new(source),
            hook: None,
            on_open: None,
            keep_alive: Some(PING_INTERVAL),
            retry: RETRY,
            profile: Profile { outbox: OUTBOX, overflow: Overflow::default(), compress_above: usize::MAX },
        }
    }

    /// Looks at the whole request before the stream begins, and accepts it or refuses it with any response.
    pub fn on_request<F, Fut>(mut self, accept: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoAccept> + Send + 'static,
    {
        self.hook = Some(hook(accept));
        self
    }

    /// Called when the stream is open and a member of its room: to send a first event. For a current value that must not
    /// be older than what comes after it, give the endpoint a [`LiveCounter`].
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

    /// Sends a comment after this much silence, so that proxies keep the stream open; default 25 s. Zero sends none; a day is
    /// the maximum.
    ///
    /// A client can't answer a comment. The kernel reports a dead one when it has acknowledged nothing for 75 s (on Linux, and
    /// on a socket that the shard has taken; elsewhere the server beneath decides).
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = Some(interval.min(PING_INTERVAL_MAX)).filter(|interval| !interval.is_zero());
        self
    }

    /// What the browser is told to wait before it connects again; default 3 s.
    pub fn retry(mut self, time: Duration) -> Self {
        self.retry = time;
        self
    }

    /// Bytes that may wait for a peer which reads too slowly; default 1 MiB.
    pub fn outbox(mut self, bytes: usize) -> Self {
        self.profile.outbox = bytes;
        self
    }

    /// What happens when the outbox is full; default [`Overflow::Disconnect`], which ends the stream.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.profile.overflow = overflow;
        self
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("keep_alive", &self.keep_alive)
            .field("retry", &self.retry)
            .field("outbox", &self.profile.outbox)
            .field("overflow", &self.profile.overflow)
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

/// The values of a counter: the current one at once, and each change.
impl From<&LiveCounter> for Endpoint {
    fn from(counter: &LiveCounter) -> Self {
        let counter = counter.clone();
        counter_by(move |_| Some(counter.clone()))
    }
}

/// What the shards call.
struct Callbacks {
    /// See [`Endpoint::on_open`].
    on_open: Option<OnOpen>,
}

impl Handler for Callbacks {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        if let Some(source) = conn.state::<Source>() {
            source.join(&conn).await?;
        }
        match &self.on_open {
            Some(on_open) => on_open(conn).await,
            None => Ok(()),
        }
    }
}

impl Hub {
    /// An event stream endpoint, as a route of any axum application: of a room by its name, of a [`LiveCounter`], or an
    /// [`Endpoint`] with settings and hooks.
    pub fn sse<S>(&self, endpoint: impl Into<Endpoint>) -> MethodRouter<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let endpoint = endpoint.into();
        let stream = Arc::new(Callbacks { on_open: endpoint.on_open.clone() });
        let route = Arc::new(Route {
            id: self.next_route(),
            name: "an event stream".to_owned(),
            takes: Takes::default(),
            max_message: 0,
            message_timeout: Duration::MAX,
            ping_interval: endpoint.keep_alive,
            pong_timeout: None, // nothing can answer
            profile: endpoint.profile,
            callbacks: callbacks(self.shards(), stream),
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
    // A body is part of the request, and hyper's to deal with: on a socket of a shard, what a client sends ends the stream.
    let has_body = has_content(request.headers());
    let takeover = request.extensions().get::<Takeover>().filter(|_| !has_body).cloned();
    let (parts, _) = request.into_parts();
    let peer = match request::peer(&hub, &parts) {
        Ok(peer) => peer,
        Err(bad) => return bad.into(),
    };
    let request = match Request::new(peer, parts).await {
        Ok(request) => request,
        Err(response) => return response,
    };
    let Some(source) = (endpoint.source)(&request) else {
        return plain(404, "There is no such stream.\n");
    };
    if let Err(error) = crate::name::check_name("room name", source.room()) {
        limited!(DEBUG, error = %cut(error), "an event stream was refused");
        return plain(404, "There is no such stream.\n");
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
        // nginx would hold events back otherwise.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    if head {
        // Like GET, of no known length; an empty body would have one.
        let body = Body::from_stream(futures_util::stream::empty::<Result<Bytes, Infallible>>());
        return (headers, body).into_response();
    }
    let accepted = Box::new(Accepted { hub, route, dialect: Dialect::Sse, permit, states: accept.states });
    let greeting = format!("retry: {}\n\n", endpoint.retry.as_millis());
    (headers, Extension(OwnPace), hand_off::stream(accepted, greeting, takeover)).into_response()
}
