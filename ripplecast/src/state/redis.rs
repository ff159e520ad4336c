//! The backend on Redis: counters and tables that all nodes share.
//!
//! Every operation is one Lua script, so one atomic step, and publishes what it changed in that step, with its number
//! in the history of the counter or table (`redis/history.rs`). All keys of a counter or a table are in one hash slot.
//! What a node's observers receive comes from the channel of the counter or table, in the order of the changes
//! (`redis/watch.rs`).
//!
//! Redis's clock decides when counters and rows expire, and nothing else. A clock that is set back lets them live longer, and
//! one that jumps ahead lets them expire early; the order of changes does not depend on it.

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

/// Counters and tables that are read at once after a connection was lost: each observed one is, and Redis has others to
/// serve, too.
const READS_AT_ONCE: usize = 64;
/// Entries of observed counters before the first look for those that nobody observes any more; later looks wait for twice
/// what is left.
const SWEEP_AT: usize = 64;
/// Times in milliseconds from here on are never: numbers of milliseconds stay exact in Lua.
const NEVER: u128 = 1 << 52;

impl Store {
    /// A store on that Redis. To be called on the runtime that the hub runs on.
    pub(crate) fn redis(redis: Redis) -> Self {
        Self::with(OnRedis { shared: Arc::new(Shared::new(redis)) })
    }
}

/// See the module.
struct OnRedis {
    /// What counters and tables share.
    shared: Arc<Shared>,
}

/// What counters and tables share.
struct Shared {
    /// The connection.
    redis: Redis,
    /// Where observed counters and tables are read again after a gap.
    runtime: Handle,
    /// Bounds how many of them are read at once.
    reads: Arc<Semaphore>,
    /// The observed counters by name.
    counters: Mutex<Observed>,
}

/// See [`Shared::counters`].
struct Observed {
    /// The counters; those that nobody observes any more are gone.
    watches: HashMap<Box<str>, Weak<Watch<WatchedCounter>>>,
    /// How many may be there before the next sweep.
    sweep_at: usize,
}

impl Shared {
    /// Nothing observed yet.
    fn new(redis: Redis) -> Self {
        let counters = Mutex::new(Observed { watches: HashMap::new(), sweep_at: SWEEP_AT });
        Self { redis, runtime: Handle::current(), reads: Arc::new(Semaphore::new(READS_AT_ONCE)), counters }
    }

    /// The command that publishes a change in the step that makes it.
    fn publish(&self) -> &'static str {
        self.redis.publish_command()
    }
}

impl Observed {
    /// The counter of that name, if somebody observes it.
    fn get(&self, name: &str) -> Option<Arc<Watch<WatchedCounter>>> {
        self.watches.get(name)?.upgrade()
    }

    /// Adds a counter, and forgets those that nobody observes any more.
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

/// An answer that comes later.
fn later<'a, T>(answer: impl Future<Output = Result<T>> + Send + 'a) -> Reply<'a, T> {
    Reply::Later(Box::pin(answer))
}

/// A time as the scripts take it: milliseconds, rounded up; 0 for at once; or never.
fn milliseconds(after: Duration) -> String {
    match after.as_nanos().div_ceil(1_000_000) {
        never if never >= NEVER => "never".to_owned(),
        milliseconds => milliseconds.to_string(),
    }
}

/// An answer that no script gives.
fn invalid(what: &str) -> Error {
    Error::Backend(BackendError::Refused { message: what.to_owned() })
}

/// Text in an answer.
fn as_text(raw: &Raw) -> Option<&str> {
    match raw {
        Raw::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Raw::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// A number of things in an answer.
fn as_count(raw: &Raw) -> Option<usize> {
    match raw {
        Raw::Int(count) => usize::try_from(*count).ok(),
        _ => None,
    }
}
