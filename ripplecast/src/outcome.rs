//! The result of `push`.

use crate::{Error, Result};

/// The state of a message when `push` returns. This is a report, not an error: a peer may disconnect at any
/// time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use = "a push may be dropped or find the connection closed; call .ignore() where that makes no difference"]
#[non_exhaustive]
pub enum Sent {
    /// Queued, in order. Only the peer itself can confirm receipt.
    Queued,
    /// Dropped; no connection receives it.
    Dropped(Dropped),
    /// The connection is closed or closing.
    Closed,
}

/// Why a message was dropped. A push returns only [`Overloaded`](Self::Overloaded). The other reasons occur
/// later and are reported by [`Stats::drops`](crate::stats::Stats::drops) and the
/// [`HubBuilder::on_drop`](crate::HubBuilder::on_drop) hook.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Dropped {
    /// A shard's mailbox is full: the node has more to deliver than it can. The push was refused for all
    /// recipients.
    Overloaded,
    /// A newer message with the same key arrived while this one waited for a slow reader:
    /// [`Overflow::LatestPerKey`](crate::Overflow::LatestPerKey).
    Replaced,
    /// A slow reader's outbox was full: [`Overflow::DropOldest`](crate::Overflow::DropOldest).
    OutboxFull,
    /// Its connection was closed because the outbox was full:
    /// [`Overflow::Disconnect`](crate::Overflow::Disconnect).
    SlowConsumer,
    /// Too many bytes were queued on the whole hub, and the recipient was among the slowest:
    /// [`HubBuilder::max_queued_bytes`](crate::HubBuilder::max_queued_bytes).
    Shed,
}

impl Sent {
    /// Returns whether the message was queued.
    pub fn is_queued(self) -> bool {
        self == Self::Queued
    }

    /// Returns whether the connection was closed.
    pub fn is_closed(self) -> bool {
        self == Self::Closed
    }

    /// States explicitly that the result does not matter.
    pub fn ignore(self) {}

    /// Converts the result of posting to a mailbox.
    pub(crate) fn from_posted(posted: &Result<()>) -> Self {
        match posted {
            Ok(()) => Self::Queued,
            Err(Error::Closed) => Self::Closed,
            Err(_) => Self::Dropped(Dropped::Overloaded),
        }
    }
}
