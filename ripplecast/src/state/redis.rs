//! The backend on Redis: counters and tables shared by all nodes.
//!
//! Every operation is a Lua script, so one atomic step. In the same step it publishes what it changed, with
//! the change's number in the history of the counter or table (`redis/history.rs`). All keys of a counter or
//! a table are in one hash slot. Observers on a node are notified from the channel of the counter or table,
//! in the order of the changes (`redis/watch.rs`).
//!
//! Redis's clock decides when counters and rows expire, and nothing else. If the clock is set back, they live
//! longer; if it jumps ahead, they expire early. The order of changes does not depend on it.

mod counter;
mod history;
mod table;
mod text;
mod watch;

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use redis::Value as Raw;
use tokio::{runtime::Handle, sync::Semaphore};

use self::{
    counter::{RedisCounter, WatchedCounter},
    table::RedisTable,
    watch::Watch,
};
use super::{Backend, CounterBackend, Store, TableBackend, schema::Schema};
use crate::{Error, Result, error::BackendError, redis_client::Redis, reply::Reply};

/// Counters and tables that are read at once after a lost connection. Every observed one is read, and Redis
/// must serve others, too.
const READS_AT_ONCE: usize = 64;
/// Entries of observed counters before the first sweep of those no longer observed. Later sweeps wait until
/// the remaining number has doubled.
const SWEEP_AT: usize = 64;
/// Times in milliseconds that count as never. Smaller numbers stay exact in Lua.
const NEVER: u128 = 1 << 52;

impl Store {
    /// Creates a store on Redis. Call it on the hub's runtime.
    pub(crate) fn redis(redis: Redis) -> Self {
        Self::with(OnRedis { shared: Arc::new(Shared::new(redis)) })
    }
}

/// The Redis backend.
struct OnRedis {
    shared: Arc<Shared>,
}

/// State shared by counters and tables.
struct Shared {
    redis: Redis,
    /// Where observed counters and tables are read again after a gap.
    runtime: Handle,
    /// Limits how many of them are read at once.
    reads: Arc<Semaphore>,
    /// By name.
    counters: Mutex<Observed>,
}

/// The observed counters.
struct Observed {
    /// Dead once nobody observes the counter.
    watches: HashMap<Box<str>, Weak<Watch<WatchedCounter>>>,
    /// Number of entries that triggers the next sweep.
    sweep_at: usize,
}

impl Shared {
    /// Creates the state without observed counters.
    fn new(redis: Redis) -> Self {
        let counters = Mutex::new(Observed { watches: HashMap::new(), sweep_at: SWEEP_AT });
        Self { redis, runtime: Handle::current(), reads: Arc::new(Semaphore::new(READS_AT_ONCE)), counters }
    }

    /// Returns the command that a script uses to publish the change it makes.
    fn publish(&self) -> &'static str {
        self.redis.publish_command()
    }
}

impl Observed {
    /// Returns the counter with that name if it is observed.
    fn get(&self, name: &str) -> Option<Arc<Watch<WatchedCounter>>> {
        self.watches.get(name)?.upgrade()
    }

    /// Adds a counter and removes those no longer observed.
    fn add(&mut self, name: &str, watch: &Arc<Watch<WatchedCounter>>) {
        if self.watches.len() >= self.sweep_at {
            self.watches.retain(|_, watch| watch.strong_count() > 0);
            self.sweep_at = SWEEP_AT.max(self.watches.len() * 2);
        }
        self.watches.insert(name.into(), Arc::downgrade(watch));
    }
}

impl Backend for OnRedis {
    fn counter(&self, name: &str) -> Arc<dyn CounterBackend> {
        Arc::new(RedisCounter::new(&self.shared, name))
    }

    fn table(&self, schema: &Arc<Schema>) -> Arc<dyn TableBackend> {
        Arc::new(RedisTable::new(&self.shared, schema))
    }
}

/// Wraps a future as a reply.
fn later<'a, T>(answer: impl Future<Output = Result<T>> + Send + 'a) -> Reply<'a, T> {
    Reply::Later(Box::pin(answer))
}

/// Formats a time for the scripts: milliseconds, rounded up; 0 for at once; or `never`.
fn milliseconds(after: Duration) -> String {
    match after.as_nanos().div_ceil(1_000_000) {
        never if never >= NEVER => "never".to_owned(),
        milliseconds => milliseconds.to_string(),
    }
}

/// Returns the error for an answer that no script gives.
fn invalid(what: &str) -> Error {
    Error::Backend(BackendError::Refused { message: what.to_owned() })
}

/// Reads text in an answer.
fn as_text(raw: &Raw) -> Option<&str> {
    match raw {
        Raw::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Raw::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Reads a count in an answer.
fn as_count(raw: &Raw) -> Option<usize> {
    match raw {
        Raw::Int(count) => usize::try_from(*count).ok(),
        _ => None,
    }
}
