//! Counts the TLS connections whose last bytes have not been sent.

use tokio::sync::watch;

/// Counts the TLS connections that have not closed cleanly yet, including those handed off to a shard,
/// whose last bytes are still in the relay task.
pub(super) struct Goodbyes(watch::Sender<()>);

/// Represents one such connection while it is alive.
pub(super) struct Goodbye(#[expect(dead_code, reason = "only its lifetime matters")] watch::Receiver<()>);

impl Goodbyes {
    /// Creates an empty count.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    /// Counts one more connection until the result is dropped.
    pub(super) fn one_more(&self) -> Goodbye {
        Goodbye(self.0.subscribe())
    }

    /// Completes when no connection is left.
    pub(super) async fn all_said(&self) {
        self.0.closed().await;
    }
}
