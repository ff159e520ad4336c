//! What `push` returns.

use crate::{Error, Result};

/// What is known of a frame when `push` returns. It is a report, not an error: a peer may be gone at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a push may be dropped or find the connection closed; call .ignore() where that makes no difference"]
#[non_exhaustive]
pub enum Sent {
    /// Queued, in order. (Only the peer itself can confirm that it has received it.)
    Queued,
    /// It was dropped, and no connection receives it.
    Dropped(Dropped),
    /// The connection is closed or closing.
    Closed,
}

/// Why a frame was dropped. A push returns only [`Overloaded`](Self::Overloaded): the others happen later, and are
/// reported by [`Stats::drops`](crate::Stats::drops) and by the hook of
/// [`HubBuilder::on_drop`](crate::HubBuilder::on_drop).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Dropped {
    /// The mailbox of a shard is full: the node has more to deliver than it can. The push was refused, for everybody.
    Overloaded,
    /// It still waited for a slow reader when a newer frame with its key came: [`Overflow::LatestPerKey`](crate::Overflow::LatestPerKey).
    Replaced,
    /// The outbox of a slow reader was full: [`Overflow::DropOldest`](crate::Overflow::DropOldest).
    OutboxFull,
    /// It was for a connection that was closed because its outbox was full: [`Overflow::Disconnect`](crate::Overflow::Disconnect).
    SlowConsumer,
    /// Too much waited on the whole hub, and this was for one of the slowest:
    /// [`HubBuilder::max_queued_bytes`](crate::HubBuilder::max_queued_bytes).
    Shed,
}

impl Sent {
    /// Whether the frame is on its way.
    pub fn is_queued(self) -> bool {
        self == Self::Queued
    }

    /// Whether the connection was closed.
    pub fn is_closed(self) -> bool {
        self == Self::Closed
    }

    /// Says in the code that it makes no difference.
    pub fn ignore(self) {}

    /// From what a mailbox said.
    pub(crate) fn from_posted(posted: &Result<()>) -> Self {
        match posted {
            Ok(()) => Self::Queued,
            Err(Error::Closed) => Self::Closed,
            Err(_) => Self::Dropped(Dropped::Overloaded),
        }
    }
}
