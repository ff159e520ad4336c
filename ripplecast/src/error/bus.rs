//! Errors of the bus.

/// Why a publish or a subscribe was rejected; found in [`Error::Bus`](crate::Error::Bus).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// A payload is larger than a subscription's entire queue.
    #[error(
        "a payload on topic `{topic}` has {len} bytes; at most {limit} are allowed; publish a reference to it instead"
    )]
    PayloadTooLong {
        /// The topic.
        topic: String,
        /// The payload's length in bytes.
        len: usize,
        /// The maximum, in bytes.
        limit: usize,
    },
    /// A pattern subscription on a Redis Cluster, whose topics are spread over its shards.
    #[error(
        "`{pattern}` is a pattern, which a Redis Cluster does not support for sharded topics; subscribe to the topics \
         by name, or use one Redis with replicas (redis-sentinel://)"
    )]
    PatternOnCluster {
        /// The pattern.
        pattern: String,
    },
}
