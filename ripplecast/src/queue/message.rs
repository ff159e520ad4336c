//! Messages, dead letters, and the status of queues.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::id::MessageId;

/// A message of a queue, as a handler receives it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct QueueMessage {
    /// The message's id; the same at each delivery.
    pub id: MessageId,
    /// The queue on which it was published.
    pub queue: Arc<str>,
    /// The published bytes.
    pub payload: Bytes,
    /// The number of deliveries to this group, including this one. If it is above 1, the message may have
    /// been handled before, in part or in full.
    pub deliveries: u32,
    /// On a queue of dead letters: the origin of the message and why it was given up.
    pub dead: Option<DeadLetter>,
}

/// Why a message became a dead letter.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its id on the queue on which it was published.
    pub id: MessageId,
    /// The group that could not handle it.
    pub group: String,
    /// The error of the last delivery; at most 1 KiB.
    pub reason: String,
    /// The number of deliveries.
    pub deliveries: u32,
}

/// The state of a queue and the progress of its groups.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct QueueStatus {
    /// Messages kept, including handled ones.
    pub length: u64,
    /// Messages ever published.
    pub published: u64,
    /// The newest message's id; zero if there has never been a message.
    pub last: MessageId,
    /// Dead letters kept.
    pub dead: u64,
    /// The groups, by name.
    pub groups: Vec<GroupStatus>,
}

/// The progress of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The group's name.
    pub name: String,
    /// Its subscriptions on all nodes. May include dead ones for a while.
    pub consumers: u64,
    /// Messages delivered but not yet handled.
    pub pending: u64,
    /// Messages not yet delivered. `None` if the backend can't tell, because messages were deleted before the
    /// group read them.
    pub lag: Option<u64>,
    /// The newest message delivered.
    pub delivered: MessageId,
}

/// The counters of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct QueueCounts {
    /// Messages whose handler returned `Ok`.
    pub handled: u64,
    /// Deliveries whose handler failed or panicked.
    pub failed: u64,
    /// Messages moved to the dead letters.
    pub dead: u64,
    /// Messages taken over from a subscription that ended or fell silent.
    pub claimed: u64,
    /// Messages that disappeared from the queue while a consumer held them, for example by a manual `XTRIM`.
    pub trimmed: u64,
    /// How often a handler blocked its thread for 100 ms or more before it returned or waited. Blocking work belongs in
    /// `tokio::task::spawn_blocking`.
    pub slow: u64,
}
