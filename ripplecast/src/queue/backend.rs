//! The interface of what keeps streams.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

use super::{
    id::StreamId,
    message::{StreamMessage, StreamStatus},
    options::ReliableOptions,
    runner::Control,
};
use crate::{Result, reply::Reply};

/// A handler with its future boxed, as the subscription's tasks call it.
pub(super) type Handler =
    Box<dyn Fn(StreamMessage) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

/// What keeps streams. One per hub. Names and payloads were checked.
pub(super) trait StreamBackend: Send + Sync {
    /// Appends a message, unless the stream is full of what is not handled.
    fn publish<'a>(&'a self, stream: &'a str, payload: Bytes, max_len: usize) -> Reply<'a, StreamId>;
    /// See [`ReliableStream::status`].
    fn status<'a>(&'a self, stream: &'a str) -> Reply<'a, StreamStatus>;
    /// See [`ReliableStream::remove_group`].
    fn remove_group<'a>(&'a self, stream: &'a str, group: &'a str) -> Reply<'a, bool>;
    /// See [`ReliableStream::delete`].
    fn delete<'a>(&'a self, stream: &'a str) -> Reply<'a, bool>;
    /// Makes the group if need be, and a consumer in it.
    fn join<'a>(
        &'a self,
        stream: &'a Arc<str>,
        group: &'a Arc<str>,
        options: &'a ReliableOptions,
        control: &'a Arc<Control>,
    ) -> Reply<'a, Arc<dyn Consumer>>;
}

/// A subscription's part of a group. What it was given and has not settled is its own: nobody else gets that while it lives.
pub(super) trait Consumer: Send + Sync {
    /// Waits for messages, up to `count`; perhaps for none, so that it is called again. Never called twice at once. Backends
    /// that are away are waited for.
    fn take(&self, count: usize) -> Pin<Box<dyn Future<Output = Vec<Delivery>> + Send + '_>>;
    /// Another delivery of a message begins, if it is still this consumer's.
    fn again<'a>(&'a self, message: &'a StreamMessage) -> Reply<'a, Again>;
    /// The message is handled.
    fn acknowledge<'a>(&'a self, message: &'a StreamMessage) -> Reply<'a, ()>;
    /// Moves the message to the dead letters, in one step; false when somebody else has it or has handled it.
    fn bury<'a>(&'a self, message: &'a StreamMessage, reason: &'a str) -> Reply<'a, bool>;
    /// Gives the message up, so that another may have it at once. A delivery that no handler saw doesn't count.
    fn release<'a>(&'a self, message: &'a StreamMessage, seen: bool) -> Reply<'a, ()>;
    /// Lets [`take`](Self::take) return soon; nothing more will be taken.
    fn stop(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// Leaves the group, and gives up whatever is still held.
    fn leave(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// A message that a consumer was given.
pub(super) struct Delivery {
    /// The message.
    pub(super) message: StreamMessage,
    /// Whether another had it before.
    pub(super) claimed: bool,
    /// Why no handler can have it.
    pub(super) fault: Option<String>,
}

/// Whose a message is that is to be delivered again.
pub(super) enum Again {
    /// Still this consumer's; how often it was delivered, with the delivery that begins.
    Ours { deliveries: u32 },
    /// Another's, or already handled.
    Theirs,
    /// It is not on the stream any more, so that only this consumer has it.
    Gone,
}
