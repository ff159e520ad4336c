//! What this node knows of a counter or a table that somebody on it observes.
//!
//! A [`Watch`] is subscribed to the channel on which every change is published in the step that makes it. Whenever the
//! subscription stands again, it reads the current state, so that what fell into the gap is made good. Changes and states have
//! numbers that only rise; what is not newer than what is known is passed over.

use std::{
    future::Future,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use tokio::sync::{Mutex, Notify, Semaphore};

use super::Shared;
use crate::{
    Result,
    redis::{Channel, Event, Subscribed},
};

/// First pause after a read that failed though the subscription stands.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause: what observers know is behind for so much longer than Redis was away.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is watched, and what is known of it.
pub(super) trait Source: Send + Sync + 'static {
    /// What a read says.
    type State: Send;
    /// A read begins: what is heard from now on may be newer than what it says.
    fn begin(&self);
    /// Reads the current state.
    fn read(&self) -> impl Future<Output = Result<Self::State>> + Send;
    /// Takes what was read, and tells the observers what is newer.
    fn take(&self, state: Self::State);
    /// The read is over, well or not.
    fn end(&self);
    /// Takes a published change, and tells the observers if it is newer.
    fn hear(&self, payload: &[u8]);
    /// Whether the state was ever known.
    fn is_known(&self) -> bool;
}

/// See the module. It lives as long as somebody observes.
pub(super) struct Watch<S: Source> {
    /// What is watched.
    pub(super) source: S,
    /// Held while it is read: one read is enough for all who wait for it.
    reading: Mutex<()>,
    /// Bounds the reads of the whole store.
    reads: Arc<Semaphore>,
    /// Says that the subscription stands, and that there was a gap before; or that the watch is gone.
    wake: Arc<Notify>,
    /// The subscription; set right after the watch was made.
    subscribed: OnceLock<Subscribed>,
}

impl<S: Source> Watch<S> {
    /// Begins to watch.
    pub(super) fn new(shared: &Shared, channel: String, source: S) -> Arc<Self> {
        let watch = Arc::new(Self {
            source,
            reading: Mutex::default(),
            reads: Arc::clone(&shared.reads),
            wake: Arc::default(),
            subscribed: OnceLock::new(),
        });
        shared.runtime.spawn(heal(Arc::downgrade(&watch), Arc::clone(&watch.wake)));
        let weak = Arc::downgrade(&watch);
        let subscribed = shared.redis.subscribe(Channel::Exact(channel), move |event| {
            let Some(watch) = weak.upgrade() else { return };
            match event {
                Event::Message { payload, .. } => watch.source.hear(&payload),
                Event::Up => watch.wake.notify_one(),
                Event::Down => {}
            }
        });
        let _ = watch.subscribed.set(subscribed); // the only place where it is set
        watch
    }

    /// Waits until the state is known. When Redis is away and it was known before, that is enough.
    pub(super) async fn ready(&self) -> Result<()> {
        if self.source.is_known() {
            return Ok(());
        }
        if let Some(subscribed) = self.subscribed.get() {
            subscribed.ready().await?;
        }
        let _reading = self.reading.lock().await;
        if self.source.is_known() { Ok(()) } else { self.read().await }
    }

    /// Reads the state anew.
    async fn refresh(&self) -> Result<()> {
        let _reading = self.reading.lock().await;
        self.read().await
    }

    /// Reads the state; `reading` is held.
    async fn read(&self) -> Result<()> {
        let _permit = self.reads.acquire().await;
        self.source.begin();
        let _end = End(&self.source);
        self.source.take(self.source.read().await?);
        Ok(())
    }
}

impl<S: Source> Drop for Watch<S> {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// Ends a read, also one that was cancelled.
struct End<'a, S: Source>(&'a S);

impl<S: Source> Drop for End<'_, S> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Reads the state after each gap, until the watch is gone.
async fn heal<S: Source>(watch: Weak<Watch<S>>, wake: Arc<Notify>) {
    loop {
        wake.notified().await;
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(watch) = watch.upgrade() else { return };
            let Err(error) = watch.refresh().await else { break };
            drop(watch);
            tracing::debug!(%error, "shared state can't be read after a gap; trying again");
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}
