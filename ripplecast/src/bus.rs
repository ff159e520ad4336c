//! Publish and subscribe: messages on named channels, delivered at most once.
//!
//! A hub holds a [`Bus`], which uses a [`BusBackend`]. `bus/memory.rs` delivers messages to the subscriptions
//! of this process, wherever the messages come from. `bus/redis.rs` exchanges them with other nodes.

mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

use self::memory::Queue;
use crate::{BusError, Error, Result, limits, name::check_filled, reply::Reply};

/// Messages that may wait for one subscription's handler: about a second of a busy channel.
const QUEUE_MESSAGES: usize = 1024;
/// Bytes that may wait for one subscription's handler, and the largest payload.
const QUEUE_BYTES: usize = 16 << 20;

/// A message published on the bus.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BusMessage {
    /// The channel on which it was published.
    pub channel: Arc<str>,
    /// The published bytes.
    pub payload: Bytes,
}

/// A handler with a boxed future, as called by the subscription's task.
type Handler = Box<dyn Fn(BusMessage) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Carries messages. One per hub.
trait BusBackend: Send + Sync {
    /// Publishes a message. Returns how many subscriptions received it, as
    /// [`Hub::publish`](crate::Hub::publish) counts them. Messages of one caller keep their order.
    fn publish<'a>(&'a self, channel: &'a str, payload: Bytes) -> Reply<'a, usize>;
    /// Starts a subscription, which receives every message published after the reply.
    fn subscribe(&self, pattern: &str, handler: Handler) -> Reply<'_, Subscription>;
    /// Ends all subscriptions.
    fn close(&self);
}

/// The bus of a hub. Clones are handles of the same bus.
#[derive(Clone)]
pub(crate) struct Bus {
    backend: Arc<dyn BusBackend>,
}

impl Bus {
    /// Creates a bus within this process.
    pub(crate) fn memory() -> Self {
        Self { backend: Arc::new(memory::Memory::default()) }
    }

    /// Ends all current and future subscriptions; running handlers finish. Called when the hub shuts down,
    /// since a handler that holds the hub would keep it alive.
    pub(crate) fn close(&self) {
        self.backend.close();
    }

    /// See [`crate::Hub::publish`].
    pub(crate) async fn publish(&self, channel: &str, payload: Bytes) -> Result<usize> {
        check_filled("channel", channel, limits::NAME)?;
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
        check_filled("channel", pattern, limits::NAME)?;
        let handler: Handler = Box::new(move |message| Box::pin(handler(message)));
        self.backend.subscribe(pattern, handler).await
    }
}

/// A handle that keeps a subscription alive; see [`Hub::subscribe`](crate::Hub::subscribe). Dropping it ends
/// the subscription, unless it is [detached](Self::detach).
///
/// When the subscription ends, waiting messages are dropped; a running handler finishes.
#[must_use = "dropping a Subscription ends it; call detach() to keep it as long as the hub lives"]
pub struct Subscription {
    /// Waiting messages; closing the queue ends the task.
    queue: Arc<Queue>,
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
