//! An endpoint as the shards see it, and the callbacks that they call.

use std::{future::Future, pin::Pin, time::Duration};

use super::outbox::Profile;
use crate::{Close, Frame, Result, id::Local};

/// An endpoint, as the shards know it.
pub(crate) struct Route {
    /// Its number among the hub's endpoints.
    pub(crate) id: usize,
    /// What it is called in logs.
    pub(crate) name: String,
    /// Which kinds of messages are taken.
    pub(crate) takes: Takes,
    /// Longest message taken, in bytes.
    pub(crate) max_message: usize,
    /// Time in which a message must be complete.
    pub(crate) message_timeout: Duration,
    /// Silence after which a ping is sent; `None` for no pings.
    pub(crate) ping_interval: Option<Duration>,
    /// Time that a peer has to show life after a ping; `None` for any time.
    pub(crate) pong_timeout: Option<Duration>,
    /// The limit of its connections' outboxes.
    pub(crate) profile: Profile,
    /// Makes the callbacks for the shard of that number.
    pub(crate) callbacks: MakeCallbacks,
}

/// Makes callbacks for one shard after the other, by their numbers.
pub(crate) type MakeCallbacks = Box<dyn Fn(usize) -> Box<dyn Callbacks> + Send + Sync>;

/// Which kinds of messages an endpoint takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Takes {
    /// Both.
    #[default]
    All,
    /// Text only; binary is answered with 1003.
    Text,
    /// Binary only; text is answered with 1003.
    Binary,
}

/// A future that had to wait; the runtime drives it on.
pub(crate) type Waiting = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// How a call went.
pub(crate) enum Called {
    /// It returned.
    Returned(Result<()>),
    /// It waits for something.
    Waits(Waiting),
    /// It panicked, with this message.
    Panicked(String),
}

/// The callbacks of one endpoint, for one shard.
pub(crate) trait Callbacks: Send {
    /// Called when a connection was opened.
    fn open(&mut self, who: Local) -> Called;
    /// Called for each message.
    fn message(&mut self, who: Local, frame: Frame) -> Called;
    /// Called when a connection was closed.
    fn close(&mut self, who: Local, close: Close) -> Called;
}
