//! WebSocket endpoints: three callbacks on a path.
//!
//! Use [closures](handlers) for small endpoints and a [type](Handler) with three methods for larger ones. An
//! [`Endpoint`] adds settings and hooks to either.

mod callbacks;
mod handlers;
pub(crate) mod handshake;
mod json;
mod negotiation;
pub(crate) mod upgrade;

pub(crate) use self::{
    callbacks::callbacks,
    handshake::has_content,
    upgrade::{origin_allowed, refuse_origin},
};
pub use self::{
    handlers::{Handler, Handlers, Outcome, handlers},
    json::InvalidJson,
};
pub use crate::{codec::compression::Compression, headers::OriginPolicy};

use std::{sync::Arc, time::Duration};

use axum::routing::MethodRouter;

use crate::{
    Hub, IntoAccept, Overflow, Request,
    engine::{EndpointPath, MessageKinds, OutboxPolicy, Route},
    limits::{MAX_MESSAGE, MESSAGE_TIMEOUT, OUTBOX, PING_INTERVAL, PING_INTERVAL_MAX, PONG_TIMEOUT},
    request::{Hook, hook},
};

/// A handler with its settings and hooks. All settings have safe defaults.
///
/// ```
/// use std::time::Duration;
/// use ripplecast::{Connection, Message, Overflow, ws};
///
/// let echo = ws::handlers().on_message(|conn: Connection, message: Message| async move { conn.push(message).ignore() });
/// let endpoint = ws::endpoint(echo)
///     .max_message(64 * 1024)
///     .ping_interval(Duration::from_secs(15))
///     .overflow(Overflow::DropOldest);
/// # let _ = endpoint;
/// ```
#[derive(Clone)]
#[must_use = "an endpoint does nothing until it is given to App::ws or Hub::ws"]
pub struct Endpoint<H> {
    handler: Arc<H>,
    accepts: MessageKinds,
    /// In bytes.
    max_message: usize,
    message_timeout: Duration,
    /// `None` sends no pings.
    ping_interval: Option<Duration>,
    /// `None` never closes for a missing answer.
    pong_timeout: Option<Duration>,
    /// Outbox limit, overflow policy and compression threshold.
    policy: OutboxPolicy,
    compression: Compression,
    origins: OriginPolicy,
    /// In order of preference.
    subprotocols: Vec<String>,
    /// Accepts or rejects a request.
    hook: Option<Hook>,
}

/// Creates an endpoint with the default settings.
pub fn endpoint<H: Handler>(handler: H) -> Endpoint<H> {
    Endpoint {
        handler: Arc::new(handler),
        accepts: MessageKinds::default(),
        max_message: MAX_MESSAGE,
        message_timeout: MESSAGE_TIMEOUT,
        ping_interval: Some(PING_INTERVAL),
        pong_timeout: Some(PONG_TIMEOUT),
        policy: OutboxPolicy { outbox: OUTBOX, overflow: Overflow::default(), compress_above: usize::MAX },
        compression: Compression::default(),
        origins: OriginPolicy::default(),
        subprotocols: Vec::new(),
        hook: None,
    }
}

impl<H: Handler> Endpoint<H> {
    /// Sets a hook that accepts a request or rejects it with any response. The hook sees the whole request
    /// before the upgrade and runs after the origin check. Use it to look up a session, check a token, or
    /// store a user with the connection.
    ///
    /// The hook's future is dropped when the client disconnects under `axum::serve`. It is also dropped when
    /// the server shuts down; the client then gets 503.
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

    /// Sets the longest message accepted, in bytes; default 1 MiB. A longer one closes the connection with
    /// 1009 before it is read.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Accepts only text messages: a binary one closes the connection with 1003.
    pub fn text_only(mut self) -> Self {
        self.accepts = MessageKinds::Text;
        self
    }

    /// Accepts only binary messages: a text one closes the connection with 1003.
    pub fn binary_only(mut self) -> Self {
        self.accepts = MessageKinds::Binary;
        self
    }

    /// Sets how long a frame or message may take to arrive completely; default 30 s. After that the
    /// connection is closed with 1008.
    pub fn message_timeout(mut self, time: Duration) -> Self {
        self.message_timeout = time;
        self
    }

    /// Sets how long a connection may be silent before a ping is sent; default 25 s, less than the 30 to 60 s
    /// after which proxies cut idle connections. Zero disables pings; the maximum is one day. A peer that
    /// does not answer is closed after the [`pong_timeout`](Self::pong_timeout).
    ///
    /// Pings are spread over the interval so that many connections are not pinged at once. The first ping of
    /// a connection is sent in the second half of its first interval. Later ones are sent early by up to an
    /// eighth of the interval plus one second.
    pub fn ping_interval(mut self, time: Duration) -> Self {
        self.ping_interval = Some(time.min(PING_INTERVAL_MAX)).filter(|time| !time.is_zero());
        self
    }

    /// Sets how long a peer may show no sign of life after a ping before its connection is closed; default 10
    /// s. `on_close` then reports [`CloseCode::ABNORMAL`](crate::CloseCode::ABNORMAL). A dead peer is
    /// therefore detected within `ping_interval` plus `pong_timeout` plus one second: 36 s by default. Zero
    /// never closes for a missing answer; the maximum is one day.
    ///
    /// Anything the peer sends is a sign of life, and so is progress on a backlog in its outbox. A peer that
    /// reads nothing for this long after a ping is closed whatever its [`overflow`](Self::overflow) policy.
    /// Behind a proxy, progress is that of the proxy's socket, whereas pongs come from the client itself.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ripplecast::ws;
    ///
    /// // A dead peer is detected within 15 + 5 + 1 s.
    /// let endpoint = ws::endpoint(ws::handlers())
    ///     .ping_interval(Duration::from_secs(15))
    ///     .pong_timeout(Duration::from_secs(5));
    /// # let _ = endpoint;
    /// ```
    pub fn pong_timeout(mut self, time: Duration) -> Self {
        self.pong_timeout = Some(time.min(PING_INTERVAL_MAX)).filter(|time| !time.is_zero());
        self
    }

    /// Sets how many bytes may wait for a slow peer; default 1 MiB. A single message may exceed it.
    pub fn outbox(mut self, bytes: usize) -> Self {
        self.policy.outbox = bytes;
        self
    }

    /// Sets what happens when the outbox is full; default [`Overflow::Disconnect`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.policy.overflow = overflow;
        self
    }

    /// Sets whether messages are compressed for clients that offer it; default [`Compression::Off`]. In a
    /// room, a message is compressed once for all members that negotiated it, if it is longer than the lowest
    /// threshold of any endpoint.
    #[cfg(feature = "deflate")]
    #[cfg_attr(docsrs, doc(cfg(feature = "deflate")))]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Sets which web pages may connect; default [`OriginPolicy::Same`]. Others get 403 before the upgrade.
    pub fn origins(mut self, origins: OriginPolicy) -> Self {
        self.origins = origins;
        self
    }

    /// Sets the supported subprotocols, in order of preference. The first one that the client offers is
    /// selected.
    pub fn subprotocols<P: Into<String>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.subprotocols = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Returns the part of the settings that the shards need.
    fn route(&self, hub: &Hub) -> Route {
        let compress_above = self.compression.threshold().unwrap_or(usize::MAX);
        hub.local_node().setup().lower_compression_threshold(compress_above);
        Route {
            id: hub.next_route(),
            path: EndpointPath::default(),
            accepts: self.accepts,
            max_message: self.max_message,
            message_timeout: self.message_timeout,
            ping_interval: self.ping_interval,
            pong_timeout: self.pong_timeout,
            policy: OutboxPolicy { compress_above, ..self.policy },
            callbacks: callbacks(hub.local_node(), self.handler.clone()),
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
            .field("outbox", &self.policy.outbox)
            .field("overflow", &self.policy.overflow)
            .field("compression", &self.compression)
            .field("origins", &self.origins)
            .field("subprotocols", &self.subprotocols)
            .finish_non_exhaustive()
    }
}

/// Something that can be served on a path: an [`Endpoint`], or a [`Handler`] with the default settings.
pub trait IntoEndpoint {
    /// The endpoint's handler.
    type Handler: Handler;

    /// Converts into an endpoint.
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
    /// Returns a WebSocket endpoint as a route for any axum application, served by your own `axum::serve`.
    ///
    /// A request that is not a valid upgrade gets 405, 426 or 400 with an explanation. If the server holds a
    /// raw TCP socket, the connection takes it over. Otherwise (TLS), a task relays between the server and
    /// the connection, which behaves the same.
    ///
    /// With your own server, use `into_make_service_with_connect_info::<SocketAddr>()`; without it, peers'
    /// addresses are unknown and the limit per address does not apply. End with [`Hub::shutdown`]. Where the
    /// router's type is not yet known, write `hub.ws::<()>(…)`.
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
