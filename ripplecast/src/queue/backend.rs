//! The interface of queue backends.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

use super::{
    id::MessageId,
    message::{QueueMessage, QueueStatus},
    options::QueueOptions,
    runner::Control,
};
use crate::{Result, reply::Reply};

/// A handler with a boxed future, as called by the subscription's tasks.
pub(super) type QueueHandler =
    Box<dyn Fn(QueueMessage) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

/// Stores queues. One per hub. Names and payloads have been checked.
pub(super) trait QueueBackend: Send + Sync {
    /// Appends a message, unless the queue is full of unhandled ones.
    fn publish<'a>(&'a self, queue: &'a str, payload: Bytes, max_len: usize) -> Reply<'a, MessageId>;
    /// See [`Queue::status`].
    fn status<'a>(&'a self, queue: &'a str) -> Reply<'a, QueueStatus>;
    /// See [`Queue::remove_group`].
    fn remove_group<'a>(&'a self, queue: &'a str, group: &'a str) -> Reply<'a, bool>;
    /// See [`Queue::delete`].
    fn delete<'a>(&'a self, queue: &'a str) -> Reply<'a, bool>;
    /// Creates the group if necessary, and a consumer in it.
    fn join<'a>(
        &'a self,
        queue: &'a Arc<str>,
        group: &'a Arc<str>,
        options: &'a QueueOptions,
        control: &'a Arc<Control>,
    ) -> Reply<'a, Arc<dyn Consumer>>;
}

/// A subscription's part of a group. Messages delivered to it and not settled are its own: nobody else
/// receives them while it lives.
pub(super) trait Consumer: Send + Sync {
    /// Waits for up to `count` messages. May return none, and is then called again. Never called twice at
    /// once. Waits while the backend is unavailable.
    fn take(&self, count: usize) -> Pin<Box<dyn Future<Output = Vec<QueueDelivery>> + Send + '_>>;
    /// Begins another delivery of a message, if this consumer still owns it.
    fn redeliver<'a>(&'a self, message: &'a QueueMessage) -> Reply<'a, Redelivery>;
    /// Marks the message as handled.
    fn acknowledge<'a>(&'a self, message: &'a QueueMessage) -> Reply<'a, ()>;
    /// Moves the message to the dead letters in one step. Returns false if another consumer owns or has
    /// handled it.
    fn bury<'a>(&'a self, message: &'a QueueMessage, reason: &'a str) -> Reply<'a, bool>;
    /// Releases the message, so that another consumer can take it at once. A delivery that no handler saw
    /// does not count.
    fn release<'a>(&'a self, message: &'a QueueMessage, seen: bool) -> Reply<'a, ()>;
    /// Makes [`take`](Self::take) return soon; it is not called again.
    fn stop(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// Leaves the group and releases whatever is still held.
    fn leave(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// A message delivered to a consumer.
pub(super) struct QueueDelivery {
    pub(super) message: QueueMessage,
    /// Whether another consumer had it before.
    pub(super) claimed: bool,
    /// Why no handler can receive it.
    pub(super) fault: Option<String>,
}

/// The owner of a message that is to be delivered again.
pub(super) enum Redelivery {
    /// Still this consumer. `deliveries` includes the delivery that now begins.
    Ours { deliveries: u32 },
    /// Another consumer, or the message has been handled.
    Theirs,
    /// The queue no longer contains the message, so only this consumer has it.
    Gone,
}
