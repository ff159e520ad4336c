//! Publish and subscribe: messages on named channels, at most once.
//!
//! [`Bus`] is what a hub holds. Behind it stands a [`BusBackend`]: `bus/memory.rs`, which also hands messages to the
//! subscriptions of this process wherever they come from, and `bus/redis.rs`, which brings them from other nodes.

pub(crate) mod glob;
mod memory;
mod redis;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

use crate::{Error, Result, bridge::Sealer, limits, redis::Redis, store::Reply};
use memory::Queue;

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

/// What a publish or a subscription was refused for; found in [`Error::Bus`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The name of a channel is empty.
    #[error("the name of a channel can't be empty; give it one")]
    EmptyChannel,
    /// A payload is larger than a subscription's whole queue.
    #[error(
        "a payload on channel `{channel}` has {len} bytes and may have {limit}; publish where it lies instead"
    )]
    PayloadTooLong {
        /// The channel.
        channel: String,
        /// The payload's length in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// A pattern was subscribed to on a Redis Cluster, whose channels are spread over its shards.
    #[error(
        "`{pattern}` is a pattern, and a Redis Cluster has none for what it spreads over its shards; subscribe to the channels \
         by name, or use one Redis with replicas (redis-sentinel://)"
    )]
    PatternOnCluster {
        /// The pattern.
        pattern: String,
    },
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
    async fn publish(&self, channel: &str, payload: Bytes) -> Result<usize> {
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

/// The bus: messages on named channels, at most once.
impl crate::Hub {
    /// Publishes a message on a channel, and returns how many took it: subscriptions with the memory backend, nodes with
    /// Redis. (A node counts once for each channel and each pattern of its own that fits.)
    ///
    /// Messages that one task publishes on a channel, one after the other, reach each subscription in that order. A
    /// channel needs no declaration; its name has 1 to 255 bytes. With Redis the payload goes out as it is, on the channel
    /// `PREFIX:bus:{CHANNEL}`, so other programs may listen and publish too.
    ///
    /// # Errors
    /// [`Error::NameTooLong`] for a channel's name above 255 bytes; [`BusError`], in [`Error::Bus`], for an empty
    /// name and a payload above 16 MiB; [`Error::Backend`] when Redis is away: then nobody took it, or, after a time-out,
    /// perhaps all.
    ///
    /// # Overload
    /// Publishing never waits for a handler. A subscription whose queue is full doesn't get the message and isn't counted.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// assert_eq!(hub.publish("orders", "4711").await?, 0); // nobody listens
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(&self, channel: impl AsRef<str>, payload: impl Into<Bytes>) -> Result<usize> {
        self.bus().publish(channel.as_ref(), payload.into()).await
    }

    /// Calls `handler` with each message on a channel, or on all channels that a pattern names.
    ///
    /// In a pattern `*` stands for any characters, none too, `?` for one, and `\` takes the meaning from the character
    /// after it; a name without `*` and `?` is that channel alone. The subscription is in effect when this returns, and
    /// lasts as long as the [`Subscription`] is kept. Two subscriptions get each message twice, once each.
    ///
    /// With Redis it gets what is published on all nodes. When Redis goes away and comes back, the subscription is made
    /// again by itself; what was published meanwhile is missed. For what may not be missed there are streams.
    ///
    /// A subscription has a task, on the runtime in which this is called, that runs the handler for one message of a channel
    /// after the other. Of the channels of a pattern, up to 16 are handled at once, so a slow one does not hold up the
    /// others. A handler that panics is logged, and goes on with the next message.
    ///
    /// # Errors
    /// [`Error::NameTooLong`] above 255 bytes; [`BusError`], in [`Error::Bus`], for an empty name, and for a pattern on a
    /// Redis Cluster; [`Error::Backend`] when Redis is away.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Overload
    /// Up to 1,024 messages and 16 MiB wait for a handler. What comes when they are full is thrown away, for this
    /// subscription only, counted in [`Subscription::dropped`], and logged once until the queue is half empty again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let (seen, mut log) = tokio::sync::mpsc::unbounded_channel();
    /// let subscription = hub
    ///     .subscribe("orders.*", move |message| {
    ///         let seen = seen.clone();
    ///         async move { drop(seen.send(message.payload)) }
    ///     })
    ///     .await?;
    /// assert_eq!(hub.publish("orders.new", "4711").await?, 1);
    /// assert_eq!(log.recv().await.as_deref(), Some(&b"4711"[..]));
    /// subscription.unsubscribe().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe<H, F>(&self, pattern: impl AsRef<str>, handler: H) -> Result<Subscription>
    where
        H: Fn(BusMessage) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        check_channel(pattern.as_ref())?;
        let handler: Handler = Box::new(move |message| Box::pin(handler(message)));
        self.bus().backend.subscribe(pattern.as_ref(), handler).await
    }
}
