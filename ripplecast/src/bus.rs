//! Publish and subscribe: messages on named topics, delivered at most once.
//!
//! [`Hub::bus`](crate::Hub::bus) returns the [`Bus`]. With Redis, it reaches the subscriptions of every node.

// `bus/memory.rs` delivers messages to the subscriptions of this process, wherever the messages come from. `bus/redis.rs`
// exchanges them with other nodes.

mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

use self::memory::Backlog;
use crate::{Error, Result, error::BusError, limits, name::check_filled, reply::Reply};

/// Messages that may wait for one subscription's handler: about a second of a busy topic.
const QUEUE_MESSAGES: usize = 1024;
/// Messages that one subscription may handle at once: as many as may wait.
const CONCURRENCY: usize = QUEUE_MESSAGES;
/// Bytes that may wait for one subscription's handler, and the largest payload.
const QUEUE_BYTES: usize = 16 << 20;

/// A message published on the bus.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BusMessage {
    /// The topic on which it was published.
    pub topic: Arc<str>,
    /// The published bytes.
    pub payload: Bytes,
}

/// Settings of a subscription; see [`Bus::subscribe_with`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "options do nothing until they are passed on"]
pub struct BusOptions {
    concurrency: usize,
}

impl Default for BusOptions {
    fn default() -> Self {
        Self { concurrency: 1 }
    }
}

impl BusOptions {
    /// Returns the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many messages of a topic are handled at once; default 1, from 1 to 1,024. With 1, the
    /// messages of a topic are handled in order. With more there is no order. The handlers share the
    /// subscription's task, so one that computes for long holds up the others.
    ///
    /// A subscription to a pattern handles this many messages in total, but at least 16.
    ///
    /// Messages wait, in the same bounded queue as always, only while this many are being handled.
    pub fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = messages;
        self
    }

    fn check(&self) -> Result<()> {
        if (1..=CONCURRENCY).contains(&self.concurrency) {
            return Ok(());
        }
        Err(Error::setting("concurrency", self.concurrency, format!("expected 1 to {CONCURRENCY}")))
    }
}

/// A handler with a boxed future, as called by the subscription's task.
type BusHandler = Box<dyn Fn(BusMessage) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Carries messages. One per hub.
trait BusBackend: Send + Sync {
    /// Publishes a message. Returns how many subscriptions received it, as
    /// [`bus::Bus::publish`](crate::bus::Bus::publish) counts them. Messages of one caller keep their order.
    fn publish<'a>(&'a self, topic: &'a str, payload: Bytes) -> Reply<'a, usize>;
    /// Starts a subscription, which receives every message published after the reply.
    fn subscribe(&self, pattern: &str, options: BusOptions, handler: BusHandler) -> Reply<'_, Subscription>;
    /// Ends all subscriptions.
    fn close(&self);
}

/// The bus of a hub: messages on named topics, delivered at most once. See [`Hub::bus`](crate::Hub::bus). Clones are
/// handles of the same bus.
#[derive(Clone)]
pub struct Bus {
    backend: Arc<dyn BusBackend>,
}

impl Bus {
    /// Creates a bus within this process.
    pub(crate) fn memory() -> Self {
        Self { backend: Arc::new(memory::MemoryBus::default()) }
    }

    /// Ends all current and future subscriptions; running handlers finish. Called when the hub shuts down,
    /// since a handler that holds the hub would keep it alive.
    pub(crate) fn close(&self) {
        self.backend.close();
    }

    /// Publishes a message on a topic and returns the number of subscriptions that received it.
    ///
    /// The memory backend counts the subscriptions of this hub whose queues accepted the message. Redis
    /// counts its own subscriptions instead: per node, one for the topic and one for each matching pattern,
    /// however many handlers share it, plus those of other programs.
    ///
    /// Messages that one task publishes on a topic, one after the other, reach each subscription in that
    /// order. A topic needs no declaration; its name has 1 to 255 bytes. With Redis the payload is sent
    /// unchanged on the Redis channel `PREFIX:bus:{TOPIC}`, so other programs may subscribe and publish too.
    ///
    /// # Errors
    /// [`Error::EmptyName`] or [`Error::NameTooLong`] if
    /// the topic's name is empty or exceeds 255 bytes. [`BusError::PayloadTooLong`] if the payload exceeds 16 MiB.
    /// [`Error::Backend`] if Redis is unavailable: no subscriber received the message. After a
    /// time-out, some or all subscribers may have received it.
    ///
    /// # Overload
    /// Publishing never waits for a handler. A subscription whose queue is full does not receive the message.
    /// The memory backend does not count such a subscription; Redis does, because it cannot see the queues.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// assert_eq!(hub.bus().publish("orders", "4711").await?, 0); // no subscribers
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(&self, topic: impl AsRef<str>, payload: impl Into<Bytes>) -> Result<usize> {
        let (topic, payload) = (topic.as_ref(), payload.into());
        check_filled("topic", topic, limits::NAME)?;
        if payload.len() > QUEUE_BYTES {
            let (topic, len) = (topic.to_owned(), payload.len());
            return Err(BusError::PayloadTooLong { topic, len, limit: QUEUE_BYTES }.into());
        }
        self.backend.publish(topic, payload).await
    }

    /// Calls `handler` with each message on a topic, or on every topic that matches a pattern.
    ///
    /// In a pattern, `*` matches any number of characters including none, `?` matches one, and `\` makes the
    /// next character literal. A name without `*` and `?` is a single topic. The subscription is in effect
    /// when this returns and lasts as long as you keep the [`Subscription`]. Each subscription receives its
    /// own copy of a message.
    ///
    /// With Redis, a subscription receives what any node publishes. After Redis was unavailable, the
    /// subscription is restored automatically; messages published meanwhile are missed. Use queues for
    /// messages that must not be missed.
    ///
    /// A subscription's task, on the runtime in which this is called, runs the handler for one message of a
    /// topic at a time; [`subscribe_with`](Self::subscribe_with) allows more. For a pattern, up to 16 topics
    /// are handled at once, so that a slow one does not hold up the others. If the handler panics, the panic is
    /// logged and the task continues with the next message.
    ///
    /// # Errors
    /// [`Error::EmptyName`] or [`Error::NameTooLong`] if
    /// the name is empty or exceeds 255 bytes. [`BusError::PatternOnCluster`] for a pattern on a Redis Cluster.
    /// [`Error::Backend`] if Redis is unavailable.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Overload
    /// Up to 1,024 messages and 16 MiB wait for a handler. Further messages are dropped for this subscription
    /// only and counted in [`Subscription::dropped`]. The drop is logged once until the queue is half empty
    /// again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let (seen, mut log) = tokio::sync::mpsc::unbounded_channel();
    /// let subscription = hub
    ///     .bus()
    ///     .subscribe("orders.*", move |message| {
    ///         let seen = seen.clone();
    ///         async move { drop(seen.send(message.payload)) }
    ///     })
    ///     .await?;
    /// assert_eq!(hub.bus().publish("orders.new", "4711").await?, 1);
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
        self.subscribe_with(pattern, BusOptions::default(), handler).await
    }

    /// Subscribes as [`subscribe`](Self::subscribe) does, with options.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// use ripplecast::bus::BusOptions;
    ///
    /// let four = BusOptions::new().concurrency(4);
    /// let _mails = hub.bus().subscribe_with("mail", four, async |message| drop(message)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`subscribe`](Self::subscribe). [`Error::Setting`] if an option is out
    /// of range.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn subscribe_with<H, F>(
        &self,
        pattern: impl AsRef<str>,
        options: BusOptions,
        handler: H,
    ) -> Result<Subscription>
    where
        H: Fn(BusMessage) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        options.check()?;
        let pattern = pattern.as_ref();
        check_filled("topic", pattern, limits::NAME)?;
        let handler: BusHandler = Box::new(move |message| Box::pin(handler(message)));
        self.backend.subscribe(pattern, options, handler).await
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").finish_non_exhaustive()
    }
}

/// A handle that keeps a subscription alive; see [`bus::Bus::subscribe`](crate::bus::Bus::subscribe). Dropping it ends
/// the subscription, unless it is [detached](Self::detach).
///
/// When the subscription ends, waiting messages are dropped; a running handler finishes.
#[must_use = "dropping a Subscription ends it; call detach() to keep it as long as the hub lives"]
pub struct Subscription {
    /// Waiting messages; closing the queue ends the task.
    queue: Arc<Backlog>,
    task: tokio::task::JoinHandle<()>,
    /// Removes the subscription from the bus; `None` after that or once detached.
    leave: Option<Box<dyn FnOnce() + Send + Sync>>,
    /// Makes the subscription last as long as the bus, if that requires anything.
    keep: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Subscription {
    /// Adds an action for the end of the subscription and one for [`detach`](Self::detach).
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

    /// Returns how many messages were dropped because the handler's queue was full.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Ends the subscription and waits for a running handler. The handler is not called again afterwards.
    ///
    /// Does not wait when the handler itself calls it. A handler that waits for another task that calls this
    /// deadlocks.
    ///
    /// # Cancellation
    /// The subscription ends even if the future is dropped.
    pub async fn unsubscribe(mut self) {
        self.end();
        if tokio::task::try_id() != Some(self.task.id()) {
            // The task can't panic. The only possible error is a runtime that is shutting down, which ends
            // the task as well.
            let _ = (&mut self.task).await;
        }
    }

    /// Keeps the subscription for as long as the hub lives.
    ///
    /// A handler that owns a clone of the hub keeps the hub alive in turn, until it is shut down.
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
