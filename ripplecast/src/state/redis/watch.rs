//! Follows a counter or a table that is observed on this node.
//!
//! A [`Watch`] is subscribed to the channel on which every change is published in the step that makes it. It
//! reads the state whenever the subscription becomes active, and whenever it receives a message that it can't
//! apply (`history.rs`). Each object has one read at a time, and reads in quick succession are spaced out, so
//! forged messages cause a bounded number of reads.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::{Instant, sleep_until, timeout},
};

use super::{
    history::{Basis, Doubt, HistoryModel, Known, Moment},
    shared::RedisShared,
};
use crate::{
    Result,
    log::limited,
    redis_client::{Channel, Subscribed, SubscriptionEvent},
};

/// First pause between two reads. The first read itself is immediate.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause: after Redis was unavailable, observers lag by at most this much longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// After this time without a read, the next one is immediate again.
const QUIET: Duration = Duration::from_secs(10);

/// The counter or table to watch.
pub(super) trait WatchSource: Send + Sync + 'static {
    type Model: HistoryModel;
    /// The state is read again after this time even without a reason.
    const RENEW: Duration;
    /// Reads the current state and its point in the history. Redis begins a new epoch if it lacks changes
    /// that `basis` has.
    fn read(
        &self,
        basis: Basis,
    ) -> impl Future<Output = Result<(Moment, <Self::Model as HistoryModel>::State)>> + Send;
    /// Returns the name, for the log.
    fn name(&self) -> &str;
}

/// Follows one counter or table for as long as it is observed.
pub(super) struct Watch<S: WatchSource> {
    source: S,
    /// Observers are called under this lock, which orders their calls.
    pub(super) known: Mutex<Known<S::Model>>,
    /// Held during a read, so that one read serves all who wait for it.
    reading: AsyncMutex<()>,
    shared: Arc<RedisShared>,
    /// Notified when there is a reason to read, or when the watch is dropped.
    wake: Arc<Notify>,
    /// Reasons to read so far; the first is that nothing is known.
    reasons: AtomicU64,
    /// Reasons that the last successful read covers: those from before it began.
    served: AtomicU64,
    /// Whether the subscription has ever been active.
    was_active: AtomicBool,
    /// Set right after the watch was created.
    subscribed: OnceLock<Subscribed>,
}

impl<S: WatchSource> Watch<S> {
    /// Starts watching.
    pub(super) fn new(shared: &Arc<RedisShared>, channel: String, source: S, model: S::Model) -> Arc<Self> {
        let watch = Arc::new(Self {
            source,
            known: Mutex::new(Known::new(model)),
            reading: AsyncMutex::default(),
            shared: Arc::clone(shared),
            wake: Arc::default(),
            reasons: AtomicU64::new(1),
            served: AtomicU64::new(0),
            was_active: AtomicBool::new(false),
            subscribed: OnceLock::new(),
        });
        shared.runtime.spawn(heal(Arc::downgrade(&watch), Arc::clone(&watch.wake)));
        let weak = Arc::downgrade(&watch);
        let subscribed = shared.redis.subscribe(Channel::Exact(channel), move |event| {
            let Some(watch) = weak.upgrade() else { return };
            match event {
                SubscriptionEvent::Message { payload, .. } => {
                    let outcome = watch.known.lock().receive(&payload);
                    watch.settle(outcome);
                }
                // Whoever waited for the first activation may have read already.
                SubscriptionEvent::Up if !watch.was_active.swap(true, Ordering::Relaxed) => {
                    watch.wake.notify_one();
                }
                SubscriptionEvent::Up => watch.request_read(),
                SubscriptionEvent::Down | SubscriptionEvent::Refused => {}
            }
        });
        let _ = watch.subscribed.set(subscribed); // the only place where it is set
        watch
    }

    /// Waits until the state is known. A state that was known before suffices, even if Redis is unavailable.
    pub(super) async fn ready(&self) -> Result<()> {
        if self.known.lock().is_known() {
            return Ok(());
        }
        if let Some(subscribed) = self.subscribed.get() {
            subscribed.ready().await?;
        }
        let _reading = self.reading.lock().await;
        if self.known.lock().is_known() { Ok(()) } else { self.read().await }
    }

    /// Notes a reason to read the state.
    fn request_read(&self) {
        self.reasons.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Reads the state, unless the last read covers every reason and no periodic read is due.
    async fn refresh(&self, is_due: bool) -> Result<()> {
        let _reading = self.reading.lock().await;
        if !is_due && self.served.load(Ordering::Relaxed) == self.reasons.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.read().await
    }

    /// Reads the state; `reading` is held.
    async fn read(&self) -> Result<()> {
        let _permit = self.shared.reads.acquire().await;
        let reasons = self.reasons.load(Ordering::Relaxed);
        let basis = self.known.lock().begin();
        let _end = End(self);
        let (moment, state) = self.source.read(basis).await?;
        self.served.store(reasons, Ordering::Relaxed);
        if self.known.lock().take(moment, state) {
            limited!(
                WARN,
                name = self.source.name(),
                "the history of a counter or table restarted in Redis, perhaps after a failover: tabs may see an older value \
                 after a newer one"
            );
        }
        Ok(())
    }

    /// Handles the outcome of a message.
    fn settle(&self, outcome: Result<(), Doubt>) {
        let name = self.source.name();
        match outcome {
            Ok(()) => {}
            Err(Doubt::Read) => {
                limited!(
                    INFO,
                    name,
                    "a message on the channel of a counter or table does not follow the known state; reading the state"
                );
                self.request_read();
            }
            Err(Doubt::Foreign) => {
                limited!(
                    WARN,
                    name,
                    "a message on the channel of a counter or table was not written by this library"
                );
            }
        }
    }
}

impl<S: WatchSource> Drop for Watch<S> {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// Ends a read when dropped, even if the read was cancelled.
struct End<'a, S: WatchSource>(&'a Watch<S>);

impl<S: WatchSource> Drop for End<'_, S> {
    fn drop(&mut self) {
        let ended = self.0.known.lock().end();
        self.0.settle(ended);
    }
}

/// Reads the state for each reason until the watch is dropped.
async fn heal<S: WatchSource>(watch: Weak<Watch<S>>, wake: Arc<Notify>) {
    let (mut last, mut pause, mut has_failed) = (None::<Instant>, FIRST_PAUSE, false);
    let mut is_due = false;
    loop {
        if !has_failed {
            is_due = timeout(S::RENEW, wake.notified()).await.is_err();
        }
        if let Some(last) = last {
            pause = if last.elapsed() < QUIET { LONGEST_PAUSE.min(pause * 2) } else { FIRST_PAUSE };
            sleep_until(last + pause).await;
        }
        let Some(watch) = watch.upgrade() else { return };
        let outcome = watch.refresh(is_due).await;
        last = Some(Instant::now());
        has_failed = outcome.is_err();
        if let Err(error) = outcome {
            tracing::debug!(%error, "failed to read shared state; retrying");
        }
    }
}
