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
mod shared;
mod table;
mod text;
mod watch;

use std::sync::Arc;

use self::{
    counter::{ObservedCounters, RedisCounter},
    shared::RedisShared,
    table::RedisTable,
};
use super::{CounterBackend, StateBackend, Store, TableBackend, schema::Schema};
use crate::redis_client::Redis;

impl Store {
    /// Creates a store on Redis. Call it on the hub's runtime.
    pub(crate) fn redis(redis: Redis) -> Self {
        Self::with(RedisState { shared: Arc::new(RedisShared::new(redis)), observed: Arc::default() })
    }
}

struct RedisState {
    shared: Arc<RedisShared>,
    /// The counters that are observed on this node.
    observed: Arc<ObservedCounters>,
}

impl StateBackend for RedisState {
    fn counter(&self, name: &str) -> Arc<dyn CounterBackend> {
        Arc::new(RedisCounter::new(&self.shared, &self.observed, name))
    }

    fn table(&self, schema: &Arc<Schema>) -> Arc<dyn TableBackend> {
        Arc::new(RedisTable::new(&self.shared, schema))
    }
}
