//! Errors of streams.

/// Why a stream or a message for one was rejected; found in [`Error::Stream`](crate::Error::Stream).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A payload exceeds the maximum of a stream.
    #[error(
        "a payload for stream `{stream}` has {len} bytes; at most {limit} are allowed; publish a reference to it instead"
    )]
    PayloadTooLong {
        /// The stream.
        stream: String,
        /// The payload's length in bytes.
        len: usize,
        /// The maximum, in bytes.
        limit: usize,
    },
    /// The stream is at its limit, and some group has not handled the oldest. Nothing was
    /// published.
    #[error("stream `{stream}` is full (limit {limit} {unit}): {}; nothing was published, try again later", held_up(.group))]
    Full {
        /// The stream.
        stream: String,
        /// The limit.
        limit: usize,
        /// What the limit counts: `messages` or `bytes`.
        unit: &'static str,
        /// A group that has not handled the oldest message; `None` if the stream has no group.
        group: Option<String>,
    },
    /// The name belongs to a stream of dead letters, which can't be published to, or consists only of its
    /// suffix.
    #[error(
        "`{stream}` names a stream of dead letters, which can't be published to; publish to another stream"
    )]
    DeadLetters {
        /// The name.
        stream: String,
    },
}

/// Describes what holds up a full stream.
fn held_up(group: &Option<String>) -> String {
    match group {
        Some(group) => format!("group `{group}` has not handled its oldest message"),
        None => "it has no group to handle its messages".to_owned(),
    }
}
