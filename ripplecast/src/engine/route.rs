//! The shards' view of an endpoint, and the callbacks that they call.

use std::{fmt, sync::OnceLock, time::Duration};

use futures_util::future::BoxFuture;

use super::outbox::OutboxPolicy;
use crate::{Close, Message, Result, id::Local};

/// The settings and callbacks of an endpoint.
pub(crate) struct Route {
    /// Its number among the hub's endpoints.
    pub(crate) id: usize,
    /// Its name in logs.
    pub(crate) path: EndpointPath,
    /// The kinds of messages that it accepts.
    pub(crate) accepts: MessageKinds,
    /// The longest message that it accepts, in bytes.
    pub(crate) max_message: usize,
    /// The time within which a message must be complete.
    pub(crate) message_timeout: Duration,
    /// The time of silence after which a ping is sent; `None` for no pings.
    pub(crate) ping_interval: Option<Duration>,
    /// The time that a peer has to respond to a ping; `None` for no limit.
    pub(crate) pong_timeout: Option<Duration>,
    /// The limits of its connections' outboxes.
    pub(crate) policy: OutboxPolicy,
    /// Creates the callbacks for a shard.
    pub(crate) callbacks: MakeCallbacks,
}

/// The path of an endpoint as its router knows it, such as `/rooms/{id}`. It is known from the first request on; that of an
/// endpoint on several paths is the first one requested.
#[derive(Default)]
pub(crate) struct EndpointPath(OnceLock<Box<str>>);

impl EndpointPath {
    /// Keeps the path, unless one is known.
    pub(crate) fn found(&self, path: &str) {
        self.0.get_or_init(|| path.into());
    }
}

impl fmt::Display for EndpointPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get().map_or("(a path outside a router)", |path| path))
    }
}

/// Creates the callbacks for the shard with this number.
pub(crate) type MakeCallbacks = Box<dyn Fn(usize) -> Box<dyn ShardCallbacks> + Send + Sync>;

/// The kinds of messages that an endpoint accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum MessageKinds {
    /// Both.
    #[default]
    All,
    /// Text only; binary closes the connection with 1003.
    Text,
    /// Binary only; text closes the connection with 1003.
    Binary,
}

/// The outcome of a callback.
pub(crate) enum Called {
    /// It returned.
    Returned(Result<()>),
    /// It waits; its future continues on the runtime.
    Waits(BoxFuture<'static, Result<()>>),
    /// It panicked, with this message.
    Panicked(String),
}

/// The callbacks of one endpoint, for one shard.
pub(crate) trait ShardCallbacks: Send {
    /// Called when a connection has been opened.
    fn open(&mut self, who: Local) -> Called;
    /// Called for each message.
    fn message(&mut self, who: Local, message: Message) -> Called;
    /// Called when a connection has been closed.
    fn close(&mut self, who: Local, close: Close) -> Called;
}
