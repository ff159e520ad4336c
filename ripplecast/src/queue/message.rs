//! What is told of streams: messages, dead letters, and how a stream is.

use std::sync::Arc;

use bytes::Bytes;

use super::id::StreamId;

/// A message of a stream, as a handler gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct StreamMessage {
    /// Its id; the same at each delivery.
    pub id: StreamId,
    /// The stream that it was published on.
    pub stream: Arc<str>,
    /// What was published.
    pub payload: Bytes,
    /// The how manieth delivery to this group this is, from 1. Above 1 the message may have been handled before, in part
    /// or in full.
    pub deliveries: u32,
    /// Where it comes from, and why it was given up, on a stream of dead letters.
    pub dead: Option<DeadLetter>,
}

/// Why a message became a dead letter.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its id on the stream that it was published on.
    pub id: StreamId,
    /// The group that could not handle it.
    pub group: String,
    /// What the last delivery failed with; at most 1 KiB.
    pub reason: String,
    /// How often it was delivered.
    pub deliveries: u32,
}

/// How a stream is, and how far its groups are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct StreamStatus {
    /// Messages that are kept, handled ones too.
    pub length: u64,
    /// Messages that were ever published.
    pub published: u64,
    /// The newest message's id; zero if there never was one.
    pub last: StreamId,
    /// Dead letters that are kept.
    pub dead: u64,
    /// The groups, by name.
    pub groups: Vec<GroupStatus>,
}

/// How far a group is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Its subscriptions, on all nodes; those that died may still be among them for a while.
    pub consumers: u64,
    /// Messages that were delivered and are not handled yet.
    pub pending: u64,
    /// Messages that were not delivered yet. None when the backend can't tell, because somebody deleted messages that the
    /// group had not read.
    pub lag: Option<u64>,
    /// The newest message that was delivered.
    pub delivered: StreamId,
}

/// What a subscription has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ReliableCounts {
    /// Messages whose handler returned `Ok`.
    pub handled: u64,
    /// Deliveries whose handler failed or panicked.
    pub failed: u64,
    /// Messages that were moved to the dead letters.
    pub dead: u64,
    /// Messages that were taken over from a subscription which ended or fell silent.
    pub claimed: u64,
    /// Messages that vanished from the stream while somebody held them, such as by hand with `XTRIM`.
    pub trimmed: u64,
    /// How often a handler blocked its thread for 100 ms or more before it returned or waited. Blocking work belongs in
    /// `tokio::task::spawn_blocking`.
    pub slow: u64,
}
