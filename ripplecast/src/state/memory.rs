//! The backend in this process's memory. Counters are here, rows in `memory/rows.rs`.

mod deadlines;
mod rows;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Instant,
};

use parking_lot::Mutex;

use super::{
    Counted, CounterBackend, CounterObserver, CounterOp, Observation, Observers, StateBackend, TableBackend,
    Version, schema::Schema,
};
use crate::{error::StateError, reply::Reply};

/// Locks that counter names and a table's rows are spread over: more than the cores that usually contend for
/// one.
const SHARDS: usize = 16;
/// Counters of one shard before the first sweep. Later sweeps wait until the remaining number has doubled.
const SWEEP_AT: usize = 64;

/// Returns the current time. Tests provide their own.
pub(super) type TimeSource = Arc<dyn Fn() -> Instant + Send + Sync>;

pub(super) struct MemoryState {
    /// By name, spread by hash.
    counters: Box<[Mutex<CounterShard>]>,
    /// Seeded, so that outsiders cannot choose names that collide.
    hasher: RandomState,
    /// For expiry.
    clock: TimeSource,
}

/// One shard of the counters.
struct CounterShard {
    /// Counters that have a handle or are not 0.
    cells: HashMap<Box<str>, Arc<Cell>>,
    /// Number of counters that triggers the next sweep.
    sweep_at: usize,
    /// Highest version among forgotten counters. New counters start there, so that the versions of a name
    /// never decrease.
    version: u64,
}

impl MemoryState {
    /// Creates an empty backend.
    pub(super) fn new() -> Self {
        Self::with_clock(Arc::new(Instant::now))
    }

    /// Creates an empty backend with that clock.
    pub(super) fn with_clock(clock: TimeSource) -> Self {
        let shard = || Mutex::new(CounterShard { cells: HashMap::new(), sweep_at: SWEEP_AT, version: 0 });
        Self { counters: (0..SHARDS).map(|_| shard()).collect(), hasher: RandomState::new(), clock }
    }

    /// Returns the counter with that name, created if necessary.
    pub(super) fn cell(&self, name: &str) -> Arc<Cell> {
        let mut shard = self.counters[shard_of(self.hasher.hash_one(name))].lock();
        if let Some(cell) = shard.cells.get(name) {
            return Arc::clone(cell);
        }
        if shard.cells.len() >= shard.sweep_at {
            shard.sweep((self.clock)());
        }
        let state =
            CellState { value: 0, version: shard.version, expires: None, observers: Observers::default() };
        let cell =
            Arc::new(Cell { name: name.into(), state: Mutex::new(state), clock: Arc::clone(&self.clock) });
        shard.cells.insert(name.into(), Arc::clone(&cell));
        cell
    }

    /// Returns the number of counters kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.counters.iter().map(|shard| shard.lock().cells.len()).sum()
    }
}

impl CounterShard {
    /// Removes counters that nobody holds or observes and that are 0 or expired. A handle can only be cloned
    /// from another handle or from this map, whose lock is held, so a counter with no other handle cannot
    /// gain one meanwhile.
    fn sweep(&mut self, now: Instant) {
        let mut version = self.version;
        self.cells.retain(|_, cell| {
            if Arc::strong_count(cell) > 1 {
                return true;
            }
            let state = cell.state.lock();
            let dead = state.observers.is_empty() && (state.value == 0 || state.expired(now));
            if dead {
                version = version.max(state.version + 1);
            }
            !dead
        });
        self.version = version;
        self.sweep_at = SWEEP_AT.max(self.cells.len() * 2);
    }
}

/// Returns the shard of a hash. Avoids the highest bits, which the hash tables below use.
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

impl StateBackend for MemoryState {
    fn counter(&self, name: &str) -> Arc<dyn CounterBackend> {
        self.cell(name)
    }

    fn table(&self, schema: &Arc<Schema>) -> Arc<dyn TableBackend> {
        Arc::new(rows::MemoryTable::new(Arc::clone(schema), Arc::clone(&self.clock)))
    }
}

/// A counter in memory.
pub(super) struct Cell {
    /// For the overflow error.
    name: Box<str>,
    /// Observers are called under this lock, which orders their calls.
    state: Mutex<CellState>,
    /// For expiry.
    clock: TimeSource,
}

/// The mutable state of a [`Cell`].
struct CellState {
    /// Valid unless expired.
    value: i64,
    /// Increases by 1 with each change.
    version: u64,
    /// When the value returns to 0.
    expires: Option<Instant>,
    observers: Observers<CounterObserver>,
}

impl CellState {
    /// Returns whether the counter has expired.
    fn expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }

    /// Resets the counter to 0 if it has expired.
    fn expire(&mut self, clock: &TimeSource) {
        if self.expires.is_some() && self.expired(clock()) {
            self.expires = None;
            if self.value != 0 {
                self.change(0);
            }
        }
    }

    /// Writes a value and notifies the observers.
    fn change(&mut self, value: i64) {
        self.value = value;
        self.version += 1;
        self.observers.each(|observer| observer(self.value, Version::of_memory(self.version)));
    }

    /// Writes a value without an expiry and notifies the observers.
    fn set(&mut self, value: i64) {
        self.expires = None;
        self.change(value);
    }
}

impl Cell {
    /// Runs one operation.
    fn step(&self, op: CounterOp) -> Result<Counted, StateError> {
        let mut state = self.state.lock();
        state.expire(&self.clock);
        let value = state.value;
        let mut applied = true;
        match op {
            CounterOp::Get => {}
            CounterOp::Add(by) => {
                let sum = value.checked_add(by);
                let overflow = || StateError::CounterOverflow { name: self.name.to_string(), value, by };
                state.change(sum.ok_or_else(overflow)?);
            }
            CounterOp::Set(value) => state.set(value),
            CounterOp::CompareAndSet { expected, new, expires } => {
                applied = value == expected;
                if applied {
                    state.expires = expires.and_then(|after| (self.clock)().checked_add(after));
                    state.change(new);
                }
            }
            CounterOp::IncrementBelow { max, window } => {
                applied = value < max;
                if applied {
                    state.change(value + 1);
                }
                if state.expires.is_none() && state.value != 0 {
                    state.expires = window.and_then(|window| (self.clock)().checked_add(window));
                }
            }
            CounterOp::Expire(after) => {
                state.expires = (self.clock)().checked_add(after);
                state.expire(&self.clock);
            }
        }
        let expires_in = state.expires.map(|expires| expires.saturating_duration_since((self.clock)()));
        Ok(Counted { value: state.value, applied, expires_in })
    }
}

impl CounterBackend for Cell {
    fn apply(&self, op: CounterOp) -> Reply<'_, Counted> {
        Reply::now(self.step(op))
    }

    fn observe(&self, observer: Arc<CounterObserver>) -> Observation {
        self.state.lock().observers.add(observer)
    }

    fn ready(&self) -> Reply<'_, ()> {
        Reply::Ready(Some(Ok(())))
    }

    fn inspect(&self, look: &mut dyn FnMut(Option<(i64, Version)>)) {
        let mut state = self.state.lock();
        state.expire(&self.clock);
        look(Some((state.value, Version::of_memory(state.version))));
    }
}
