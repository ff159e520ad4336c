//! What counters and tables on Redis share: the connection, and how scripts take and return values.

use std::{sync::Arc, time::Duration};

use redis::Value as Raw;
use tokio::{runtime::Handle, sync::Semaphore};

use crate::{Error, error::BackendError, redis_client::Redis};

/// Counters and tables that are read at once after a lost connection. Every observed one is read, and Redis
/// must serve others, too.
const READS_AT_ONCE: usize = 64;
/// Times in milliseconds that count as never. Smaller numbers stay exact in Lua.
const NEVER: u128 = 1 << 52;

/// State shared by counters and tables.
pub(super) struct RedisShared {
    pub(super) redis: Redis,
    /// Where observed counters and tables are read again after a gap.
    pub(super) runtime: Handle,
    /// Limits how many of them are read at once.
    pub(super) reads: Arc<Semaphore>,
}

impl RedisShared {
    pub(super) fn new(redis: Redis) -> Self {
        Self { redis, runtime: Handle::current(), reads: Arc::new(Semaphore::new(READS_AT_ONCE)) }
    }

    /// Returns the command that a script uses to publish the change it makes.
    pub(super) fn publish(&self) -> &'static str {
        self.redis.publish_command()
    }
}

/// Formats a time for the scripts: milliseconds, rounded up; 0 for at once; or `never`.
pub(super) fn milliseconds(after: Duration) -> String {
    match after.as_nanos().div_ceil(1_000_000) {
        never if never >= NEVER => "never".to_owned(),
        milliseconds => milliseconds.to_string(),
    }
}

/// Returns the error for an answer that no script gives.
pub(super) fn invalid(what: &str) -> Error {
    Error::Backend(BackendError::Refused { message: what.to_owned() })
}

/// Reads text in an answer.
pub(super) fn as_text(raw: &Raw) -> Option<&str> {
    match raw {
        Raw::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Raw::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Reads a count in an answer.
pub(super) fn as_count(raw: &Raw) -> Option<usize> {
    match raw {
        Raw::Int(count) => usize::try_from(*count).ok(),
        _ => None,
    }
}
