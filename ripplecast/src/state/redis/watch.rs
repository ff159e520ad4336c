//! Follows a counter or a table that somebody on this node observes.
//!
//! A [`Watch`] is subscribed to the channel on which every change is published in the step that makes it. It reads the
//! state whenever the subscription is active again, and whenever it receives a message that it can't apply
//! (`history.rs`). One read of an object runs at a time, and reads in quick succession are spaced, so forged messages
//! cause a bounded number of them.

use std::{
    future::Future,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Shared,
    history::{Basis, Doubt, Known, Model, Moment},
};
use crate::{
    Result,
    log::limited,
    redis_client::{Channel, Event, Subscribed},
};

/// First pause between two reads. The first read itself is immediate.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause: after Redis was unavailable, observers lag for at most this much longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// After a time without a read the next one is immediate again.
const QUIET: Duration = Duration::from_secs(10);

/// What is watched.
pub(super) trait Source: Send + Sync + 'static {
    /// What is known of it.
    type Model: Model;
    /// A state is read again after that time without a reason.
    const RENEW: Duration;
    /// Reads the current state and its moment. Redis begins an epoch if it lacks changes that `basis` has.
    fn read(
        &self,
        basis: Basis,
    ) -> impl Future<Output = Result<(Moment, <Self::Model as Model>::State)>> + Send;
    /// Its name, for the log.
    fn name(&self) -> &str;
}

/// See the module. It lives as long as somebody observes.
pub(super) struct Watch<S: Source> {
    source: S,
    /// What is known. Observers are called under this lock: that is their order.
    pub(super) known: Mutex<Known<S::Model>>,
    /// Held while it is read: one read is enough for all who wait for it.
    reading: AsyncMutex<()>,
    shared: Arc<Shared>,
    /// Notified when there is a reason to read, or when the watch is dropped.
    wake: Arc<Notify>,
    /// The subscription; set right after the watch was made.
    subscribed: OnceLock<Subscribed>,
}

impl<S: Source> Watch<S> {
    /// Begins to watch.
    pub(super) fn new(shared: &Arc<Shared>, channel: String, source: S, model: S::Model) -> Arc<Self> {
        let watch = Arc::new(Self {
            source,
            known: Mutex::new(Known::new(model)),
            reading: AsyncMutex::default(),
            shared: Arc::clone(shared),
            wake: Arc::default(),
            subscribed: OnceLock::new(),
        });
        shared.runtime.spawn(heal(Arc::downgrade(&watch), Arc::clone(&watch.wake)));
        let weak = Arc::downgrade(&watch);
        let subscribed = shared.redis.subscribe(Channel::Exact(channel), move |event| {
            let Some(watch) = weak.upgrade() else { return };
            match event {
                Event::Message { payload, .. } => {
                    let heard = watch.known.lock().hear(&payload);
                    watch.settle(heard);
                }
                Event::Up => watch.wake.notify_one(),
                Event::Down | Event::Refused => {}
            }
        });
        let _ = watch.subscribed.set(subscribed); // the only place where it is set
        watch
    }

    /// Waits until the state is known. If it was known before, that is enough, even if Redis is unavailable.
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

    /// Reads the state again.
    async fn refresh(&self) -> Result<()> {
        let _reading = self.reading.lock().await;
        self.read().await
    }

    /// Reads the state; `reading` is held.
    async fn read(&self) -> Result<()> {
        let _permit = self.shared.reads.acquire().await;
        let basis = self.known.lock().begin();
        let _end = End(self);
        let (moment, state) = self.source.read(basis).await?;
        if self.known.lock().take(moment, state) {
            limited!(
                WARN,
                name = self.source.name(),
                "the history of a counter or table began again in Redis, perhaps after a failover: tabs may see an older value \
                 after a newer one"
            );
        }
        Ok(())
    }

    /// What came of a message.
    fn settle(&self, heard: Result<(), Doubt>) {
        let name = self.source.name();
        match heard {
            Ok(()) => {}
            Err(Doubt::Read) => {
                limited!(
                    INFO,
                    name,
                    "a message on the channel of a counter or table does not follow on what is known; reading the state"
                );
                self.wake.notify_one();
            }
            Err(Doubt::Foreign) => {
                limited!(WARN, name, "a message on the channel of a counter or table is not of this library");
            }
        }
    }
}

impl<S: Source> Drop for Watch<S> {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// Ends a read, also one that was cancelled.
struct End<'a, S: Source>(&'a Watch<S>);

impl<S: Source> Drop for End<'_, S> {
    fn drop(&mut self) {
        let ended = self.0.known.lock().end();
        self.0.settle(ended);
    }
}

/// Reads the state for each reason, until the watch is dropped.
async fn heal<S: Source>(watch: Weak<Watch<S>>, wake: Arc<Notify>) {
    let (mut last, mut pause, mut has_failed) = (None::<Instant>, FIRST_PAUSE, false);
    loop {
        if !has_failed {
            let _ = timeout(S::RENEW, wake.notified()).await; // either way it is read
        }
        if let Some(last) = last {
            pause = if last.elapsed() < QUIET { LONGEST_PAUSE.min(pause * 2) } else { FIRST_PAUSE };
            sleep_until(last + pause).await;
        }
        let Some(watch) = watch.upgrade() else { return };
        let outcome = watch.refresh().await;
        last = Some(Instant::now());
        has_failed = outcome.is_err();
        if let Err(error) = outcome {
            tracing::debug!(%error, "shared state can't be read; trying again");
        }
    }
}
