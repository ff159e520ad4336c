//! Queues: messages that are kept until every group has handled them, at least once.
//!
//! [`Hub::queue`](crate::Hub::queue) returns a [`Queue`] by its name.

// `queue/backend.rs` is the interface of what keeps messages, `queue/memory.rs` and `queue/redis.rs` implement it, and
// `queue/runner.rs` runs the subscriptions of both in the same way.

mod backend;
mod id;
mod memory;
mod message;
mod options;
mod pause;
#[cfg(feature = "redis")]
mod redis;
mod runner;
mod subscription;

pub use self::{
    id::MessageId,
    message::{DeadLetter, GroupStatus, QueueCounts, QueueMessage, QueueStatus},
    options::QueueOptions,
    subscription::QueueSubscription,
};

use std::{fmt, future::Future, sync::Arc};

use bytes::Bytes;

use self::{
    backend::{QueueBackend, QueueHandler},
    runner::{Control, QueueLifecycle, Runner},
};
use crate::{Error, Result, error::QueueError, limits, name::check_filled};

/// Longest payload, in bytes. A message names what happened; larger data belongs in a store, with a reference
/// here.
const PAYLOAD: usize = 1 << 20;
/// Maximum messages of a queue. Setting: `max_len`. A night of a quiet application without any handler
/// running.
const MAX_LEN: usize = 100_000;
/// Maximum dead letters of a queue; the oldest are dropped beyond it. More than anyone reads.
const DEAD_LETTERS: usize = 10_000;
/// Suffix of the name of a queue of dead letters.
const DEAD: &str = ".dead";

/// The queues of a hub. Clones are handles of the same queues.
#[derive(Clone)]
pub(crate) struct Queues {
    backend: Arc<dyn QueueBackend>,
    /// State shared by the subscriptions.
    lifecycle: Arc<QueueLifecycle>,
}

impl Queues {
    /// Creates queues within this process.
    pub(crate) fn memory() -> Self {
        Self::with(memory::MemoryQueues::default())
    }

    /// Creates queues on that backend.
    fn with(backend: impl QueueBackend + 'static) -> Self {
        Self { backend: Arc::new(backend), lifecycle: QueueLifecycle::new() }
    }

    /// Ends all current and future subscriptions. Called when the hub shuts down.
    pub(crate) fn close(&self) {
        self.lifecycle.close();
    }

    /// Ends all subscriptions, and cancels their handlers.
    pub(crate) fn close_now(&self) {
        self.lifecycle.close_now();
    }

    /// Waits until all subscriptions have ended, or until the time that handlers have at shutdown is over.
    pub(crate) async fn ended(&self) {
        self.lifecycle.ended().await;
    }

    /// Returns the queue with that name.
    pub(crate) fn queue(&self, name: &str) -> Queue {
        Queue { queues: self.clone(), name: name.into(), max_len: MAX_LEN }
    }
}

/// A queue: messages that are kept until every group has handled them. See
/// [`Hub::queue`](crate::Hub::queue). Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    queues: Queues,
    /// Not checked yet; the operations reject an invalid name.
    name: Arc<str>,
    max_len: usize,
}

impl Queue {
    /// Returns the queue's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets the maximum number of messages that the queue keeps; default 100,000. It applies to messages
    /// published through this handle, so set it wherever you publish.
    #[must_use]
    pub fn max_len(mut self, messages: usize) -> Self {
        self.max_len = messages;
        self
    }

    /// Returns the queue of this queue's dead letters: `NAME.dead`.
    #[must_use]
    pub fn dead_letters(&self) -> Self {
        self.queues.queue(&format!("{}{DEAD}", self.name))
    }

    /// Publishes a message on a queue and returns the message's id. Each group of the queue handles it at
    /// least once.
    ///
    /// Once this returns `Ok`, the message is kept until every group, and at least one, has handled it or
    /// moved it to the dead letters. It is kept where the hub keeps its state: in memory for as long as this
    /// process lives, on Redis for as long as Redis keeps its data. Messages that one task publishes, one
    /// after the other, keep that order in the queue.
    ///
    /// # Errors
    /// [`Error::EmptyName`] or [`Error::NameTooLong`] if the name is empty or exceeds 250 bytes.
    /// [`QueueError::PayloadTooLong`] above 1 MiB, [`QueueError::Full`] if the queue is full, and
    /// [`QueueError::DeadLetters`] for a queue of dead letters.
    /// [`Error::Setting`] if [`max_len`](Self::max_len) is 0. [`Error::Backend`] if the backend is unavailable
    /// or too slow. After a time-out the message may still be in the queue; publishing it again may then
    /// duplicate it.
    ///
    /// # Overload
    /// A queue keeps up to 100,000 messages, or the number set with [`Queue::max_len`]. Beyond
    /// that, handled messages make room. While the oldest message is unhandled, publishing fails with
    /// [`QueueError::Full`].
    ///
    /// # Cancellation
    /// If the future is dropped, the message may or may not have been published.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let id = hub.queue("orders").publish("4711").await?;
    /// println!("order 4711 is message {id}");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(&self, payload: impl Into<Bytes>) -> Result<MessageId> {
        self.check()?;
        let (payload, queue) = (payload.into(), self.name.to_string());
        if queue.ends_with(DEAD) {
            return Err(QueueError::DeadLetters { queue }.into());
        }
        if payload.len() > PAYLOAD {
            return Err(QueueError::PayloadTooLong { queue, len: payload.len(), limit: PAYLOAD }.into());
        }
        if self.max_len == 0 {
            return Err(Error::setting("max_len", 0, "expected 1 or more"));
        }
        self.queues.backend.publish(&self.name, payload, self.max_len).await
    }

    /// Calls `handler` with each message of a queue, at least once, as a member of a group.
    ///
    /// Each group receives every message; the subscriptions of one group share them. A new group starts with
    /// the oldest message that is kept. A handler that returns `Ok` acknowledges its message. After an error
    /// or a panic, the message is delivered again, first after about 100 ms and then after twice as long each
    /// time. After 5 deliveries it is moved to the dead letters, the queue `NAME.dead`, with the reason. If
    /// a process dies, the messages of its subscriptions are delivered to other members of the group. A
    /// handler must therefore tolerate duplicates.
    ///
    /// One handler runs at a time and receives messages in the order of the queue;
    /// [`Queue::subscribe_with`] changes all of this. The subscription lasts as long as you keep the
    /// [`QueueSubscription`]. Its tasks run on the runtime in which this is called.
    ///
    /// # Errors
    /// [`Error::NameTooLong`] for a queue above 250 bytes or a group above 255, and [`Error::EmptyName`] for an
    /// empty name. [`Error::Backend`] if the backend is unavailable. If it becomes unavailable later, the
    /// subscription waits for it and then continues.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Overload
    /// A message is taken from the queue only when a handler is free, so nothing queues up in the process.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # use ripplecast::Error;
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let (seen, mut log) = tokio::sync::mpsc::unbounded_channel();
    /// hub.queue("orders").publish("4711").await?;
    /// let subscription = hub
    ///     .queue("orders").subscribe("bills", move |message| {
    ///         let seen = seen.clone();
    ///         async move { seen.send(message.payload).map_err(Error::other) }
    ///     })
    ///     .await?;
    /// assert_eq!(log.recv().await.as_deref(), Some(&b"4711"[..]));
    /// subscription.unsubscribe().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe<H, F>(&self, group: impl AsRef<str>, handler: H) -> Result<QueueSubscription>
    where
        H: Fn(QueueMessage) -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.subscribe_with(group, QueueOptions::default(), handler).await
    }

    /// Handles the queue's messages with other settings; otherwise like [`subscribe`](Self::subscribe).
    ///
    /// # Errors
    /// Also [`Error::Setting`] if the settings are not valid.
    ///
    /// ```
    /// use ripplecast::{Error, queue::QueueOptions};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let orders = hub.queue("orders");
    /// let (gone, mut dead) = tokio::sync::mpsc::unbounded_channel();
    /// let once = QueueOptions::new().max_deliveries(1);
    /// let _bills = orders.subscribe_with("bills", once, async |_| Err(Error::other("no paper"))).await?;
    /// let _dead = orders
    ///     .dead_letters()
    ///     .subscribe("operator", move |message| {
    ///         let gone = gone.clone();
    ///         async move { gone.send(message.dead).map_err(Error::other) }
    ///     })
    ///     .await?;
    /// orders.publish("4711").await?;
    /// assert_eq!(dead.recv().await.flatten().map(|dead| dead.reason).as_deref(), Some("no paper"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe_with<H, F>(
        &self,
        group: impl AsRef<str>,
        options: QueueOptions,
        handler: H,
    ) -> Result<QueueSubscription>
    where
        H: Fn(QueueMessage) -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.check()?;
        check_filled("group", group.as_ref(), limits::NAME)?;
        options.check()?;
        let handler: QueueHandler = Box::new(move |message| Box::pin(handler(message)));
        let (queue, group, control) = (Arc::clone(&self.name), Arc::from(group.as_ref()), Control::new());
        let consumer = self.queues.backend.join(&queue, &group, &options, &control).await?;
        let runner = Runner { queue, group, handler, options, consumer, control: Arc::clone(&control) };
        Ok(QueueSubscription { task: runner.start(&self.queues.lifecycle), control, detached: false })
    }

    /// Returns the state of the queue and the progress of its groups. A queue that was never used is empty.
    ///
    /// # Errors
    /// If the name is not valid or the backend is unavailable.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// hub.queue("orders").publish("4711").await?;
    /// let orders = hub.queue("orders").status().await?;
    /// assert_eq!((orders.length, orders.groups.len()), (1, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn status(&self) -> Result<QueueStatus> {
        self.check()?;
        self.queues.backend.status(&self.name).await
    }

    /// Removes a group and returns whether it existed. Its messages no longer need handling and no longer
    /// hold up publishers. A subscription of the group that still runs creates it again, starting with the
    /// oldest message kept.
    ///
    /// # Errors
    /// If a name is not valid or the backend is unavailable.
    pub async fn remove_group(&self, group: impl AsRef<str>) -> Result<bool> {
        self.check()?;
        check_filled("group", group.as_ref(), limits::NAME)?;
        self.queues.backend.remove_group(&self.name, group.as_ref()).await
    }

    /// Deletes the queue with its messages and groups, and returns whether it existed. Its dead letters
    /// remain, because they are a separate queue.
    ///
    /// # Errors
    /// If the name is not valid or the backend is unavailable.
    pub async fn delete(&self) -> Result<bool> {
        self.check()?;
        self.queues.backend.delete(&self.name).await
    }

    fn check(&self) -> Result<()> {
        check_filled("queue", &self.name, limits::NAME - DEAD.len())?;
        if self.name.trim_end_matches(DEAD).is_empty() {
            return Err(QueueError::DeadLetters { queue: self.name.to_string() }.into());
        }
        Ok(())
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("name", &self.name).field("max_len", &self.max_len).finish()
    }
}
