//! Publish and subscribe: messages on named channels, at most once.
//!
//! [`Bus`] is what a hub holds. Behind it stands a [`BusBackend`]: `bus/memory.rs`, which also hands messages to the
//! subscriptions of this process wherever they come from, and `bus/redis.rs`, which brings them from other nodes.

mod memory;
mod redis;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

use self::memory::Queue;
use crate::{BusError, Error, Result, cluster::Sealer, limits, redis_client::Redis, reply::Reply};

/// Messages that may wait for one subscription's handler: about a second of a busy channel.
const QUEUE_MESSAGES: usize = 1024;
/// Bytes that may wait for one subscription's handler, and the largest payload.
const QUEUE_BYTES: usize = 16 << 20;

/// A message that was published on the bus.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BusMessage {
    /// The channel that it was published on.
    pub channel: Arc<str>,
    /// What was published.
    pub payload: Bytes,
}

/// A handler with its future boxed, as the subscription's task calls it.
type Handler = Box<dyn Fn(BusMessage) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What carries messages. One per hub.
trait BusBackend: Send + Sync {
    /// Hands a message to the subscriptions of its channel; how many took it. Messages of one caller keep their order.
    fn publish<'a>(&'a self, channel: &'a str, payload: Bytes) -> Reply<'a, usize>;
    /// Starts a subscription, which gets every message that is published after the answer.
    fn subscribe(&self, pattern: &str, handler: Handler) -> Reply<'_, Subscription>;
    /// Ends all subscriptions.
    fn close(&self);
}

/// The bus of a hub. Clones are handles of the same bus.
#[derive(Clone)]
pub(crate) struct Bus {
    /// What carries the messages.
    backend: Arc<dyn BusBackend>,
}

impl Bus {
    /// A bus within this process.
    pub(crate) fn memory() -> Self {
        Self { backend: Arc::new(memory::Memory::default()) }
    }

    /// A bus over that Redis.
    pub(crate) fn redis(redis: Redis, sealer: Arc<Sealer>) -> Self {
        Self { backend: Arc::new(redis::RedisBus::new(redis, sealer)) }
    }

    /// Ends all subscriptions, those that come later too; their handlers finish what they have begun. To be called when
    /// the hub shuts down, since a handler that holds the hub would keep it alive.
    pub(crate) fn close(&self) {
        self.backend.close();
    }

    /// See [`crate::Hub::publish`].
    pub(crate) async fn publish(&self, channel: &str, payload: Bytes) -> Result<usize> {
        check_channel(channel)?;
        if payload.len() > QUEUE_BYTES {
            let channel = channel.to_owned();
            return Err(Error::from(BusError::PayloadTooLong {
                channel,
                len: payload.len(),
                limit: QUEUE_BYTES,
            }));
        }
        self.backend.publish(channel, payload).await
    }

    /// See [`crate::Hub::subscribe`].
    pub(crate) async fn subscribe<H, F>(&self, pattern: &str, handler: H) -> Result<Subscription>
    where
        H: Fn(BusMessage) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        check_channel(pattern)?;
        let handler: Handler = Box::new(move |message| Box::pin(handler(message)));
        self.backend.subscribe(pattern, handler).await
    }
}

/// Checks the name of a channel, or a pattern.
fn check_channel(channel: &str) -> Result<()> {
    match channel.len() {
        0 => Err(BusError::EmptyChannel.into()),
        len if len > limits::NAME => Err(Error::NameTooLong { what: "channel", len, limit: limits::NAME }),
        _ => Ok(()),
    }
}

/// A subscription's handle; see [`Hub::subscribe`](crate::Hub::subscribe). Dropping it ends the subscription, unless it is
/// [detached](Self::detach).
///
/// Messages that still wait are then thrown away; a handler that is running finishes.
#[must_use = "dropping a Subscription ends it; call detach() to keep it as long as the hub lives"]
pub struct Subscription {
    /// The messages that wait; closing it ends the task.
    queue: Arc<Queue>,
    /// Runs the handler.
    task: tokio::task::JoinHandle<()>,
    /// Takes the subscription off the bus; none once that is not wanted any more.
    leave: Option<Box<dyn FnOnce() + Send + Sync>>,
    /// Sees to it that it lasts as long as the bus, if that takes anything.
    keep: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Subscription {
    /// One that does something more when it leaves, and when it is to last.
    fn with(
        mut self,
        leave: impl FnOnce() + Send + Sync + 'static,
        keep: impl FnOnce() + Send + Sync + 'static,
    ) -> Self {
        let former = self.leave.take();
        self.leave = Some(Box::new(move || {
            former.into_iter().for_each(|former| former());
            leave();
        }));
        self.keep = Some(Box::new(keep));
        self
    }

    /// How many messages were thrown away because too many waited for the handler.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Ends the subscription and waits for the handler, if it is running. Afterwards it runs no more.
    ///
    /// Called by the handler itself it doesn't wait. A handler that waits for a task that calls this waits for ever.
    ///
    /// # Cancellation
    /// The subscription ends, also if the future is dropped.
    pub async fn unsubscribe(mut self) {
        self.end();
        if tokio::task::try_id() != Some(self.task.id()) {
            // The task can't panic, so the only error is that the runtime is going down: it runs no more either way.
            let _ = (&mut self.task).await;
        }
    }

    /// Keeps the subscription for as long as the hub lives.
    ///
    /// A handler that owns a clone of the hub keeps that alive in turn, until it shuts down.
    pub fn detach(mut self) {
        self.keep.take().into_iter().for_each(|keep| keep());
        self.leave = None;
    }

    /// Ends the subscription, once.
    fn end(&mut self) {
        if let Some(leave) = self.leave.take() {
            leave();
            self.queue.close();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}
