//! What a stream is refused for.

/// What a stream, or a message for one, was refused for; found in [`Error::Stream`](crate::Error::Stream).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The name of a stream or a group is empty.
    #[error("the name of a {what} can't be empty; give it one")]
    EmptyName {
        /// What should have had a name.
        what: &'static str,
    },
    /// A payload is larger than a stream takes.
    #[error(
        "a payload for stream `{stream}` has {len} bytes and may have {limit}; publish where it lies instead"
    )]
    PayloadTooLong {
        /// The stream.
        stream: String,
        /// The payload's length in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// The stream holds as many messages as it may, and the oldest is not handled by every group. Nothing was published.
    #[error("stream `{stream}` is full (limit {limit} {unit}): {}; nothing was published, try again later", held_up(.group))]
    Full {
        /// The stream.
        stream: String,
        /// Its limit.
        limit: usize,
        /// What the limit counts: `messages` or `bytes`.
        unit: &'static str,
        /// A group that has not handled the oldest message; none if the stream has no group.
        group: Option<String>,
    },
    /// Messages can't be published to a stream of dead letters, or the name is nothing but its ending.
    #[error(
        "`{stream}` is the name of a stream of dead letters, which are put there when they can't be handled; publish to another"
    )]
    DeadLetters {
        /// The name.
        stream: String,
    },
    /// That is no id of a message.
    #[error("`{text}` is no id of a message; they look like 1700000000000-0")]
    Id {
        /// What was given.
        text: String,
    },
}

/// Who holds a full stream up.
fn held_up(group: &Option<String>) -> String {
    match group {
        Some(group) => format!("group `{group}` has not handled its oldest message"),
        None => "it has no group that handles its messages".to_owned(),
    }
}
