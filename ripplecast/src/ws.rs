//! WebSocket endpoints: three callbacks, on a path.
//!
//! For small things there are [closures](handlers), for larger ones a [type](Handler) with three methods; an
//! [`Endpoint`] adds settings and hooks to either.

mod callbacks;
mod handlers;
pub(crate) mod handshake;
mod negotiation;
pub(crate) mod upgrade;

pub use self::handlers::{Handler, Handlers, Outcome, handlers};
pub(crate) use self::{
    callbacks::callbacks,
    handshake::has_content,
    upgrade::{origin_allowed, refuse_origin, tune},
};
pub use crate::{codec::deflate::Compression, headers::OriginPolicy};

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::routing::MethodRouter;

use crate::{
    Hub, IntoAccept, Overflow, Request,
    engine::{Profile, Route, Takes},
    limits::{MAX_MESSAGE, MESSAGE_TIMEOUT, OUTBOX, PING_INTERVAL, PING_INTERVAL_MAX, PONG_TIMEOUT},
    request::{Hook, hook},
};

/// An endpoint: a handler with its settings and hooks. All settings have safe defaults.
///
/// ```
/// use std::time::Duration;
/// use ripplecast::{Connection, Frame, Overflow, ws};
///
/// let echo = ws::handlers().on_message(|conn: Connection, frame: Frame| async move { conn.push(frame).ignore() });
/// let endpoint = ws::endpoint(echo)
///     .max_message(64 * 1024)
///     .ping_interval(Duration::from_secs(15))
///     .overflow(Overflow::DropOldest);
/// # let _ = endpoint;
/// ```
#[derive(Clone)]
#[must_use = "an endpoint does nothing until it is given to App::ws or Hub::ws"]
pub struct Endpoint<H> {
    /// The three callbacks.
    handler: Arc<H>,
    /// Which kinds of messages it takes.
    takes: Takes,
    /// Longest message, in bytes.
    max_message: usize,
    /// Time in which a message must be complete.
    message_timeout: Duration,
    /// Silence after which a ping is sent.
    ping_interval: Option<Duration>,
    /// Time that a peer has to show life after a ping.
    pong_timeout: Option<Duration>,
    /// Limit of an outbox, what happens beyond it, and what is compressed.
    profile: Profile,
    /// Whether messages are compressed.
    compression: Compression,
    /// Which pages may connect.
    origins: OriginPolicy,
    /// Subprotocols that the endpoint speaks, by preference.
    subprotocols: Vec<String>,
    /// Accepts or refuses a request.
    hook: Option<Hook>,
}

/// An endpoint with the default settings.
pub fn endpoint<H: Handler>(handler: H) -> Endpoint<H> {
    Endpoint {
        handler: Arc::new(handler),
        takes: Takes::default(),
        max_message: MAX_MESSAGE,
        message_timeout: MESSAGE_TIMEOUT,
        ping_interval: Some(PING_INTERVAL),
        pong_timeout: Some(PONG_TIMEOUT),
        profile: Profile { outbox: OUTBOX, overflow: Overflow::default(), compress_above: usize::MAX },
        compression: Compression::default(),
        origins: OriginPolicy::default(),
        subprotocols: Vec::new(),
        hook: None,
    }
}

impl<H: Handler> Endpoint<H> {
    /// Looks at the whole request before the upgrade, and accepts it or refuses it with any response: a session may be
    /// looked up, a token checked, a user kept with the connection. It runs after the check of the origin.
    ///
    /// The hook's future is dropped when the client disconnects under an `axum::serve`, and when the server shuts down: the
    /// client gets 503.
    ///
    /// ```
    /// use axum::http::StatusCode;
    /// use ripplecast::{Accept, Request, ws};
    ///
    /// let endpoint = ws::endpoint(ws::handlers()).on_upgrade(|request: Request| async move {
    ///     match request.cookie("session") {
    ///         Some(_) => Ok(Accept::new()),
    ///         None => Err((StatusCode::UNAUTHORIZED, "Log in first.")),
    ///     }
    /// });
    /// # let _ = endpoint;
    /// ```
    pub fn on_upgrade<F, Fut>(mut self, accept: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoAccept> + Send + 'static,
    {
        self.hook = Some(hook(accept));
        self
    }

    /// Longest message taken, in bytes; default 1 MiB. A longer one closes its connection with 1009, before it is read.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Takes text messages only: a binary one closes its connection with 1003.
    pub fn text_only(mut self) -> Self {
        self.takes = Takes::Text;
        self
    }

    /// Takes binary messages only: a text one closes its connection with 1003.
    pub fn binary_only(mut self) -> Self {
        self.takes = Takes::Binary;
        self
    }

    /// Time in which a frame or message that was begun must be complete; default 30 s. After that its connection is
    /// closed with 1008.
    pub fn message_timeout(mut self, time: Duration) -> Self {
        self.message_timeout = time;
        self
    }

    /// Sends a ping after this much silence; default 25 s, which is less than the 30 to 60 s after which proxies cut idle
    /// links. Zero sends none; a day is the maximum. A peer that does not answer is closed after the
    /// [`pong_timeout`](Self::pong_timeout).
    ///
    /// Each connection has its own place in the interval, so that many are not pinged at once: the first ping of a
    /// connection is sent in its second half. A later one is sent up to an eighth of the interval, and up to one more second,
    /// early.
    pub fn ping_interval(mut self, time: Duration) -> Self {
        self.ping_interval = Some(time.min(PING_INTERVAL_MAX)).filter(|time| !time.is_zero());
        self
    }

    /// Closes a connection whose peer shows no sign of life for this long after a ping; default 10 s. `on_close` then
    /// reports [`CloseCode::ABNORMAL`](crate::CloseCode::ABNORMAL). So a dead peer is noticed within `ping_interval`,
    /// `pong_timeout` and a second: 36 s by default. Zero never closes for a missing answer; a day is the maximum.
    ///
    /// Anything that the peer sends is a sign of life, and so is progress while a backlog waits in its outbox. A peer
    /// that reads nothing at all for this long after a ping is closed as well, whatever its
    /// [`overflow`](Self::overflow) policy. Behind a proxy, progress is that of the proxy's socket; pongs come from the
    /// client itself.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ripplecast::ws;
    ///
    /// // A dead peer is noticed within 15 + 5 + 1 s.
    /// let endpoint = ws::endpoint(ws::handlers())
    ///     .ping_interval(Duration::from_secs(15))
    ///     .pong_timeout(Duration::from_secs(5));
    /// # let _ = endpoint;
    /// ```
    pub fn pong_timeout(mut self, time: Duration) -> Self {
        self.pong_timeout = Some(time.min(PING_INTERVAL_MAX)).filter(|time| !time.is_zero());
        self
    }

    /// Bytes that may wait for a peer which reads too slowly; default 1 MiB. A single frame may exceed it.
    pub fn outbox(mut self, bytes: usize) -> Self {
        self.profile.outbox = bytes;
        self
    }

    /// What happens when the outbox is full; default [`Overflow::Disconnect`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.profile.overflow = overflow;
        self
    }

    /// Whether messages are compressed, with clients that offer it; default [`Compression::Off`]. In a room, a message is
    /// compressed once for all members who have negotiated it, if it is longer than the least setting of any endpoint.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Which web pages may connect; default [`OriginPolicy::Same`]. Others get 403 before the upgrade.
    pub fn origins(mut self, origins: OriginPolicy) -> Self {
        self.origins = origins;
        self
    }

    /// Subprotocols that the endpoint speaks, the preferred one first. The first one that a client offers is chosen.
    pub fn subprotocols<P: Into<String>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.subprotocols = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// What the shards need to know of it.
    fn route(&self, hub: &Hub) -> Route {
        let compress_above = self.compression.threshold().unwrap_or(usize::MAX);
        hub.shards().setup.compress_above.fetch_min(compress_above, Ordering::Relaxed);
        Route {
            id: hub.next_route(),
            name: std::any::type_name::<H>().to_owned(),
            takes: self.takes,
            max_message: self.max_message,
            message_timeout: self.message_timeout,
            ping_interval: self.ping_interval,
            pong_timeout: self.pong_timeout,
            profile: Profile { compress_above, ..self.profile },
            callbacks: callbacks(hub.shards(), self.handler.clone()),
        }
    }
}

impl<H> std::fmt::Debug for Endpoint<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("max_message", &self.max_message)
            .field("message_timeout", &self.message_timeout)
            .field("ping_interval", &self.ping_interval)
            .field("pong_timeout", &self.pong_timeout)
            .field("outbox", &self.profile.outbox)
            .field("overflow", &self.profile.overflow)
            .field("compression", &self.compression)
            .field("origins", &self.origins)
            .field("subprotocols", &self.subprotocols)
            .finish_non_exhaustive()
    }
}

/// What can be put on a path: an [`Endpoint`], or a [`Handler`] with the default settings.
pub trait IntoEndpoint {
    /// Its handler.
    type Handler: Handler;

    /// As an endpoint.
    fn into_endpoint(self) -> Endpoint<Self::Handler>;
}

impl<H: Handler> IntoEndpoint for H {
    type Handler = H;

    fn into_endpoint(self) -> Endpoint<H> {
        endpoint(self)
    }
}

impl<H: Handler> IntoEndpoint for Endpoint<H> {
    type Handler = H;

    fn into_endpoint(self) -> Self {
        self
    }
}

impl Hub {
    /// A WebSocket endpoint, as a route of any axum application, served by its own `axum::serve`.
    ///
    /// A request that is no upgrade is answered with what it should have been: 405, 426 or 400. Where the server beneath
    /// has the raw TCP socket, it is taken; elsewhere (TLS) the connection is driven by a task of its own, and
    /// behaves alike.
    ///
    /// Under a server of your own, use `into_make_service_with_connect_info::<SocketAddr>()`, or peers' addresses, and with
    /// them the limit per address, are not known; and end with [`Hub::shutdown`]. Where the type of the router is not yet
    /// known, write `hub.ws::<()>(…)`.
    pub fn ws<S>(&self, endpoint: impl IntoEndpoint) -> MethodRouter<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let endpoint = endpoint.into_endpoint();
        let gate = Arc::new(upgrade::Gate {
            hub: self.clone(),
            route: Arc::new(endpoint.route(self)),
            deflate: endpoint.compression != Compression::Off,
            origins: endpoint.origins,
            subprotocols: endpoint.subprotocols,
            hook: endpoint.hook,
        });
        axum::routing::any(move |request: axum::extract::Request| upgrade::upgrade(gate.clone(), request))
    }
}
