//! The backend in this process's memory. Rows are in `memory/rows.rs`, counters here.

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
    Backend, Counted, CounterBackend, CounterObserver, CounterOp, Observation, Observers, TableBackend,
    Version, schema::Schema,
};
use crate::{StoreError, reply::Reply};

/// Locks over the counters' names, and over a table's rows: more than the cores that usually meet at one.
const SHARDS: usize = 16;
/// Counters of one shard before the first look for those that can be forgotten; later looks wait for twice what is left.
const SWEEP_AT: usize = 64;

/// What time it is. Tests bring their own.
pub(super) type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// See the module.
pub(super) struct Memory {
    /// The counters by name, spread by hash.
    counters: Box<[Mutex<Counters>]>,
    /// Spreads the names; seeded, so that nobody outside can choose names that collide.
    hasher: RandomState,
    /// What time it is, for expiry.
    clock: Clock,
}

/// One shard of the counters.
struct Counters {
    /// The counters that anybody holds or that are not 0.
    cells: HashMap<Box<str>, Arc<Cell>>,
    /// How many may be there before the next sweep.
    sweep_at: usize,
    /// Highest version of a counter that was forgotten; new ones start there, so that a name's versions never go back.
    version: u64,
}

impl Memory {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self::with_clock(Arc::new(Instant::now))
    }

    /// An empty one that lives by that clock.
    pub(super) fn with_clock(clock: Clock) -> Self {
        let shard = || Mutex::new(Counters { cells: HashMap::new(), sweep_at: SWEEP_AT, version: 0 });
        Self { counters: (0..SHARDS).map(|_| shard()).collect(), hasher: RandomState::new(), clock }
    }

    /// The counter of that name, made if need be.
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

    /// How many counters are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.counters.iter().map(|shard| shard.lock().cells.len()).sum()
    }
}

impl Counters {
    /// Forgets counters that nobody holds or observes and that are 0 or expired. Handles come only from this map, whose
    /// lock is held, or from other handles; so one that is only in the map stays so meanwhile.
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

/// The shard of a hash. Not of its highest bits, which the hash tables below use.
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

impl Backend for Memory {
    fn counter(&self, name: &str) -> Arc<dyn CounterBackend> {
        self.cell(name)
    }

    fn table(&self, schema: &Arc<Schema>) -> Arc<dyn TableBackend> {
        Arc::new(rows::Rows::new(Arc::clone(schema), Arc::clone(&self.clock)))
    }
}

/// One counter.
pub(super) struct Cell {
    /// For the overflow's message.
    name: Box<str>,
    /// Everything that changes. Observers are called under this lock: that is their order.
    state: Mutex<CellState>,
    /// What time it is, for expiry.
    clock: Clock,
}

/// See [`Cell`].
struct CellState {
    /// The value, if it has not expired.
    value: i64,
    /// Goes up by 1 with each change.
    version: u64,
    /// When the value returns to 0.
    expires: Option<Instant>,
    /// Who hears of changes.
    observers: Observers<CounterObserver>,
}

impl CellState {
    /// Whether the time is up.
    fn expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }

    /// Returns to 0 if the time is up.
    fn expire(&mut self, clock: &Clock) {
        if self.expires.is_some() && self.expired(clock()) {
            self.expires = None;
            if self.value != 0 {
                self.change(0);
            }
        }
    }

    /// Writes a value and tells the observers.
    fn change(&mut self, value: i64) {
        self.value = value;
        self.version += 1;
        self.observers.each(|observer| observer(self.value, Version::of_memory(self.version)));
    }

    /// Writes a value that does not expire, and tells the observers.
    fn set(&mut self, value: i64) {
        self.expires = None;
        self.change(value);
    }
}

impl Cell {
    /// Does one step.
    fn step(&self, op: CounterOp) -> Result<Counted, StoreError> {
        let mut state = self.state.lock();
        state.expire(&self.clock);
        let value = state.value;
        let mut applied = true;
        match op {
            CounterOp::Get => {}
            CounterOp::Add(by) => {
                let sum = value.checked_add(by);
                let overflow = || StoreError::CounterOverflow { name: self.name.to_string(), value, by };
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
        Reply::Now(Some(Ok(())))
    }

    fn inspect(&self, look: &mut dyn FnMut(Option<(i64, Version)>)) {
        let mut state = self.state.lock();
        state.expire(&self.clock);
        look(Some((state.value, Version::of_memory(state.version))));
    }
}
