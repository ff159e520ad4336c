//! Expiry of a table's rows. Every operation reads it without a lock; it is changed under the row's lock.

use std::{
    collections::BTreeSet,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::TimeSource;

/// The deadline of a row that does not expire.
pub(super) const NEVER: u64 = u64::MAX;

/// The deadlines of one table, in nanoseconds since it was created.
pub(super) struct Deadlines {
    clock: TimeSource,
    /// When the table was created.
    start: Instant,
    /// The earliest deadline, or [`NEVER`]. Saves operations the clock and the lock while nothing expires. It
    /// increases only after its row has been removed and is no longer counted, so whoever reads the new value
    /// sees the removal.
    next: AtomicU64,
    /// All deadlines with their keys, at most one per row. Locked while the row's shard is locked, never the
    /// other way round.
    waiting: Mutex<BTreeSet<(u64, Box<str>)>>,
}

impl Deadlines {
    /// Creates an empty set.
    pub(super) fn new(clock: TimeSource) -> Self {
        let start = clock();
        Self { clock, start, next: AtomicU64::new(NEVER), waiting: Mutex::default() }
    }

    /// Returns the current time if some row may have expired.
    pub(super) fn due(&self) -> Option<u64> {
        let next = self.next.load(Acquire);
        (next != NEVER).then(|| self.now()).filter(|&now| next <= now)
    }

    /// Returns up to `limit` expired keys, the earliest first.
    pub(super) fn first(&self, now: u64, limit: usize) -> Vec<Box<str>> {
        let waiting = self.waiting.lock();
        let due = waiting.iter().take_while(|(deadline, _)| *deadline <= now);
        due.take(limit).map(|(_, key)| key.clone()).collect()
    }

    /// Returns the deadline `after` from now, or [`NEVER`] if that is beyond the clock's range.
    pub(super) fn at(&self, after: Duration) -> u64 {
        let nanoseconds = u64::try_from(after.as_nanos()).ok();
        nanoseconds.and_then(|after| self.now().checked_add(after)).unwrap_or(NEVER)
    }

    /// Replaces the deadline of a row, whose shard is locked.
    pub(super) fn replace(&self, key: &str, old: u64, new: u64) {
        if old == new {
            return;
        }
        let mut waiting = self.waiting.lock();
        if old != NEVER {
            waiting.remove(&(old, key.into()));
        }
        if new != NEVER {
            waiting.insert((new, key.into()));
        }
        self.next.store(waiting.first().map_or(NEVER, |(deadline, _)| *deadline), Release);
    }

    /// Removes all deadlines. Every shard is locked.
    pub(super) fn clear(&self) {
        let mut waiting = self.waiting.lock();
        waiting.clear();
        self.next.store(NEVER, Release);
    }

    /// Returns the time since the table was created.
    fn now(&self) -> u64 {
        let elapsed = (self.clock)().saturating_duration_since(self.start);
        u64::try_from(elapsed.as_nanos()).unwrap_or(NEVER - 1)
    }
}
