//! Frames that were dropped: why, how many, and who wants to hear of it.

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{id::ConnectionId, outcome::Dropped, panics::guarded};

/// How many frames were dropped, by reason. A frame that is dropped for ten connections counts ten times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Counts frames.
    pub(crate) fn add(&mut self, reason: Dropped, frames: u64) {
        match reason {
            Dropped::Overloaded => self.overloaded += frames,
            Dropped::Replaced => self.replaced += frames,
            Dropped::OutboxFull => self.outbox_full += frames,
            Dropped::SlowConsumer => self.slow_consumer += frames,
            Dropped::Shed => self.shed += frames,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.overloaded + self.replaced + self.outbox_full + self.slow_consumer + self.shed
    }
}

/// Frames that were dropped, as told to the hook of [`HubBuilder::on_drop`](crate::HubBuilder::on_drop).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DropReport {
    /// For whom they were; `None` when a push to a room or to all was refused as a whole.
    pub connection: Option<ConnectionId>,
    /// Why.
    pub reason: Dropped,
    /// How many.
    pub frames: u64,
}

/// Who wants to hear of drops.
pub(crate) type DropHook = Arc<dyn Fn(DropReport) + Send + Sync>;

thread_local! {
    /// Whether this thread is in a hook: what that pushes may be dropped too.
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// Where the hub's parts report what they drop.
#[derive(Default)]
pub(crate) struct DropLog {
    /// Pushes that were refused.
    overloaded: AtomicU64,
    /// Who wants to hear of it.
    hook: Option<DropHook>,
}

impl DropLog {
    /// With a hook.
    pub(crate) fn new(hook: Option<DropHook>) -> Self {
        Self { overloaded: AtomicU64::new(0), hook }
    }

    /// Whether anybody wants to hear of each drop.
    pub(crate) fn is_heard(&self) -> bool {
        self.hook.is_some()
    }

    /// A push was refused; to be called without a lock of the hub.
    #[cold]
    pub(crate) fn refused(&self, connection: Option<ConnectionId>) {
        self.overloaded.fetch_add(1, Ordering::Relaxed);
        self.tell(DropReport { connection, reason: Dropped::Overloaded, frames: 1 });
    }

    /// Tells the hook, but not of what is dropped by the hook itself.
    pub(crate) fn tell(&self, report: DropReport) {
        let Some(hook) = &self.hook else { return };
        if !TELLING.replace(true) {
            guarded(|| hook(report)); // it is the application's
            TELLING.set(false);
        }
    }

    /// Pushes that were refused.
    pub(crate) fn overloaded(&self) -> u64 {
        self.overloaded.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for DropLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DropLog").field("overloaded", &self.overloaded()).finish_non_exhaustive()
    }
}
