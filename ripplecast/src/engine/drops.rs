//! Counts and reports dropped messages.

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;

use crate::{id::ConnectionId, outcome::Dropped, panics::guarded};

/// How many messages were dropped, by reason. A message that is dropped for ten connections counts ten times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Drops {
    /// [`Dropped::Overloaded`]: pushes that were refused, once each.
    pub overloaded: u64,
    /// [`Dropped::Replaced`].
    pub replaced: u64,
    /// [`Dropped::OutboxFull`].
    pub outbox_full: u64,
    /// [`Dropped::SlowConsumer`].
    pub slow_consumer: u64,
    /// [`Dropped::Shed`].
    pub shed: u64,
}

impl Drops {
    /// Adds dropped messages.
    pub(crate) fn add(&mut self, reason: Dropped, frames: u64) {
        match reason {
            Dropped::Overloaded => self.overloaded += frames,
            Dropped::Replaced => self.replaced += frames,
            Dropped::OutboxFull => self.outbox_full += frames,
            Dropped::SlowConsumer => self.slow_consumer += frames,
            Dropped::Shed => self.shed += frames,
        }
    }

    /// Returns the total over all reasons.
    pub fn total(&self) -> u64 {
        self.overloaded + self.replaced + self.outbox_full + self.slow_consumer + self.shed
    }
}

/// Dropped messages, as reported to the hook of [`HubBuilder::on_drop`](crate::HubBuilder::on_drop).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DropReport {
    /// The connection they were for; `None` when a push to a room or to all connections was refused as a whole.
    pub connection: Option<ConnectionId>,
    /// Why they were dropped.
    pub reason: Dropped,
    /// The number of messages.
    pub frames: u64,
}

/// The application's hook for drops.
pub(crate) type DropHook = Arc<dyn Fn(DropReport) + Send + Sync>;

thread_local! {
    /// Whether this thread is inside the hook, whose own pushes may be dropped too.
    static IN_HOOK: Cell<bool> = const { Cell::new(false) };
}

/// Collects the drops of all parts of a hub.
#[derive(Default)]
pub(crate) struct DropLog {
    /// Pushes that were refused.
    overloaded: AtomicU64,
    hook: Option<DropHook>,
}

impl DropLog {
    /// Creates a log that reports to `hook`.
    pub(crate) fn new(hook: Option<DropHook>) -> Self {
        Self { overloaded: AtomicU64::new(0), hook }
    }

    /// Returns whether there is a hook.
    pub(crate) fn has_hook(&self) -> bool {
        self.hook.is_some()
    }

    /// Counts and reports a refused push. Call it without holding a lock of the hub.
    #[cold]
    pub(crate) fn refused(&self, connection: Option<ConnectionId>) {
        self.overloaded.fetch_add(1, Ordering::Relaxed);
        self.report(DropReport { connection, reason: Dropped::Overloaded, frames: 1 });
    }

    /// Calls the hook, except for drops caused by the hook itself.
    pub(crate) fn report(&self, report: DropReport) {
        let Some(hook) = &self.hook else { return };
        if !IN_HOOK.replace(true) {
            guarded(|| hook(report)); // application code
            IN_HOOK.set(false);
        }
    }

    /// Returns the number of refused pushes.
    pub(crate) fn overloaded(&self) -> u64 {
        self.overloaded.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for DropLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DropLog").field("overloaded", &self.overloaded()).finish_non_exhaustive()
    }
}
