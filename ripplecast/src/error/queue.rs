//! Errors of queues.

/// Why a queue or a message for one was rejected; found in [`Error::Queue`](crate::Error::Queue).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// A payload exceeds the maximum of a queue.
    #[error(
        "a payload for queue `{queue}` has {len} bytes; at most {limit} are allowed; publish a reference to it instead"
    )]
    PayloadTooLong {
        /// The queue.
        queue: String,
        /// The payload's length in bytes.
        len: usize,
        /// The maximum, in bytes.
        limit: usize,
    },
    /// The queue is at its limit, and some group has not handled the oldest. Nothing was
    /// published.
    #[error("queue `{queue}` is full (limit {limit} {unit}): {}; nothing was published, try again later", held_up(.group))]
    Full {
        /// The queue.
        queue: String,
        /// The limit.
        limit: usize,
        /// What the limit counts: `messages` or `bytes`.
        unit: &'static str,
        /// A group that has not handled the oldest message; `None` if the queue has no group.
        group: Option<String>,
    },
    /// The name belongs to a queue of dead letters, which can't be published to, or consists only of its
    /// suffix.
    #[error("`{queue}` names a queue of dead letters, which can't be published to; publish to another queue")]
    DeadLetters {
        /// The name.
        queue: String,
    },
}

/// Describes what holds up a full queue.
fn held_up(group: &Option<String>) -> String {
    match group {
        Some(group) => format!("group `{group}` has not handled its oldest message"),
        None => "it has no group to handle its messages".to_owned(),
    }
}
