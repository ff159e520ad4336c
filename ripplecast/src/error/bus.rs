//! Errors of the bus.

/// What a publish or a subscription was refused for; found in [`Error::Bus`](crate::Error::Bus).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The name of a channel is empty.
    #[error("the name of a channel can't be empty; give it one")]
    EmptyChannel,
    /// A payload is larger than a subscription's whole queue.
    #[error(
        "a payload on channel `{channel}` has {len} bytes and may have {limit}; publish where it lies instead"
    )]
    PayloadTooLong {
        /// The channel.
        channel: String,
        /// The payload's length in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// A pattern was subscribed to on a Redis Cluster, whose channels are spread over its shards.
    #[error(
        "`{pattern}` is a pattern, and a Redis Cluster has none for what it spreads over its shards; subscribe to the channels \
         by name, or use one Redis with replicas (redis-sentinel://)"
    )]
    PatternOnCluster {
        /// The pattern.
        pattern: String,
    },
}
