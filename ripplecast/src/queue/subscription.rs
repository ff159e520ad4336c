//! The handle of a subscription.

use std::{fmt, sync::Arc};

use super::{
    message::QueueCounts,
    runner::{Control, is_own_handler},
};

/// A handle that keeps a subscription alive; see [`Queue::subscribe`](crate::Queue::subscribe).
/// Dropping it ends the subscription, unless it is [detached](Self::detach).
///
/// A running handler then finishes, and its result is recorded. Messages that wait for redelivery move to
/// another subscription of the group, or wait for one.
#[must_use = "dropping a QueueSubscription ends it; call detach() to keep it as long as the hub lives"]
pub struct QueueSubscription {
    /// Takes messages and starts the handlers.
    pub(super) task: tokio::task::JoinHandle<()>,
    /// Shared with that task.
    pub(super) control: Arc<Control>,
    /// Whether the subscription continues without this handle.
    pub(super) detached: bool,
}

impl QueueSubscription {
    /// Returns the counters since the subscription began.
    pub fn counts(&self) -> QueueCounts {
        self.control.counters.read()
    }

    /// Ends the subscription. Waits for the running handlers, and until the backend has recorded their
    /// results or has been unavailable for 5 s. No handler runs afterwards.
    ///
    /// Does not wait when one of its own handlers calls it. A handler that waits for another task that calls
    /// this deadlocks.
    ///
    /// # Cancellation
    /// The subscription ends even if the future is dropped.
    pub async fn unsubscribe(mut self) {
        self.control.stop.send_replace(true);
        if !is_own_handler(&self.control) {
            // The task can't panic. The only possible error is a runtime that is shutting down, which ends
            // the task as well.
            let _ = (&mut self.task).await;
        }
    }

    /// Keeps the subscription for as long as the hub lives.
    ///
    /// A handler that owns a clone of the hub keeps the hub alive in turn, until it is shut down.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl Drop for QueueSubscription {
    fn drop(&mut self) {
        if !self.detached {
            self.control.stop.send_replace(true);
        }
    }
}

impl fmt::Debug for QueueSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueSubscription").field("counts", &self.counts()).finish_non_exhaustive()
    }
}
