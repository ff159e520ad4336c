//! When the rows of a table expire: read without a lock by every operation, changed under the row's lock.

use std::{
    collections::BTreeSet,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Clock;

/// The deadline of a row that does not expire.
pub(super) const NEVER: u64 = u64::MAX;

/// The deadlines of one table, in nanoseconds since it was made.
pub(super) struct Deadlines {
    /// What time it is.
    clock: Clock,
    /// When the table was made.
    start: Instant,
    /// The earliest deadline, or [`NEVER`]: spares operations the clock and the lock while nothing expires. It rises
    /// only after the row that it stood for is gone and no longer counted, so whoever reads it later sees that.
    next: AtomicU64,
    /// All of them with their keys, at most one for each row. Taken while the row's shard is locked, never the other
    /// way round.
    waiting: Mutex<BTreeSet<(u64, Box<str>)>>,
}

impl Deadlines {
    /// None.
    pub(super) fn new(clock: Clock) -> Self {
        let start = clock();
        Self { clock, start, next: AtomicU64::new(NEVER), waiting: Mutex::default() }
    }

    /// The time, if a row's time may be up.
    pub(super) fn due(&self) -> Option<u64> {
        let next = self.next.load(Acquire);
        (next != NEVER).then(|| self.now()).filter(|&now| next <= now)
    }

    /// Up to `limit` keys whose time is up, the earliest first.
    pub(super) fn first(&self, now: u64, limit: usize) -> Vec<Box<str>> {
        let waiting = self.waiting.lock();
        let due = waiting.iter().take_while(|(deadline, _)| *deadline <= now);
        due.take(limit).map(|(_, key)| key.clone()).collect()
    }

    /// The deadline that is `after` from now; [`NEVER`] when that is too far away for the clock.
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

    /// Forgets all of them; every shard is locked.
    pub(super) fn clear(&self) {
        let mut waiting = self.waiting.lock();
        waiting.clear();
        self.next.store(NEVER, Release);
    }

    /// The time since the table was made.
    fn now(&self) -> u64 {
        let elapsed = (self.clock)().saturating_duration_since(self.start);
        u64::try_from(elapsed.as_nanos()).unwrap_or(NEVER - 1)
    }
}
