//! The handle of a subscription.

use std::{fmt, sync::Arc};

use super::{
    message::ReliableCounts,
    runner::{Control, is_own_handler},
};

/// A subscription's handle; see [`Hub::subscribe_reliable`](crate::Hub::subscribe_reliable). Dropping it ends the
/// subscription, unless it is [detached](Self::detach).
///
/// A handler that is running then finishes, and what it says is kept. Messages that wait to be tried again go to another
/// subscription of the group, or wait for one.
#[must_use = "dropping a ReliableSubscription ends it; call detach() to keep it as long as the hub lives"]
pub struct ReliableSubscription {
    /// Takes messages and starts the handlers.
    pub(super) task: tokio::task::JoinHandle<()>,
    /// What is shared with that task.
    pub(super) control: Arc<Control>,
    /// Whether it is to go on without this handle.
    pub(super) detached: bool,
}

impl ReliableSubscription {
    /// What has been counted since it began.
    pub fn counts(&self) -> ReliableCounts {
        self.control.counters.read()
    }

    /// Ends the subscription and waits for the handlers that are running, and until the backend knows what they said, or
    /// has been away for 5 s. Afterwards none runs.
    ///
    /// Called by one of its own handlers it doesn't wait. A handler that waits for a task that calls this waits for ever.
    ///
    /// # Cancellation
    /// The subscription ends, also if the future is dropped.
    pub async fn unsubscribe(mut self) {
        self.control.stop.send_replace(true);
        if !is_own_handler(&self.control) {
            // The task doesn't panic, so the only error is that the runtime is going down: it runs no more either way.
            let _ = (&mut self.task).await;
        }
    }

    /// Keeps the subscription for as long as the hub lives.
    ///
    /// A handler that owns a clone of the hub keeps that alive in turn, until it shuts down.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl Drop for ReliableSubscription {
    fn drop(&mut self) {
        if !self.detached {
            self.control.stop.send_replace(true);
        }
    }
}

impl fmt::Debug for ReliableSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReliableSubscription").field("counts", &self.counts()).finish_non_exhaustive()
    }
}
