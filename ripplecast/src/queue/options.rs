//! Settings of a subscription.

use std::time::Duration;

use super::pause::Pause;
use crate::{Error, Result};

/// Default of `max_deliveries`: enough to outlast a restart of what the handler depends on.
const DELIVERIES: u32 = 5;
/// Default of the first wait before redelivery.
const BACKOFF: Duration = Duration::from_millis(100);
/// Default of the longest wait before redelivery.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// Silence after which another consumer takes over. Less than the 90 s within which the other nodes sweep a
/// dead one.
const CLAIM_AFTER: Duration = Duration::from_secs(60);
/// Minimum of `claim_after`: a holder needs time for a few round trips.
const LEAST_CLAIM_AFTER: Duration = Duration::from_millis(50);
/// Maximum of `claim_after`: a longer silence only hides a fault.
const GREATEST_CLAIM_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of handlers of one subscription that may run at once: each holds a message and a task.
const CONCURRENCY: usize = 1024;

/// Settings for handling the messages of a queue; see
/// [`Queue::subscribe_with`](crate::queue::Queue::subscribe_with).
///
/// ```
/// use ripplecast::queue::QueueOptions;
/// use std::time::Duration;
///
/// let options = QueueOptions::new()
///     .concurrency(8) // eight handlers at once, in no order
///     .max_deliveries(10)
///     .backoff(Duration::from_millis(500), Duration::from_secs(60));
/// # let _ = options;
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "options do nothing until they are passed on"]
pub struct QueueOptions {
    pub(super) max_deliveries: u32,
    /// The first wait before redelivery.
    backoff: Duration,
    longest_backoff: Duration,
    pub(super) claim_after: Duration,
    pub(super) concurrency: usize,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            max_deliveries: DELIVERIES,
            backoff: BACKOFF,
            longest_backoff: LONGEST_BACKOFF,
            claim_after: CLAIM_AFTER,
            concurrency: 1,
        }
    }
}

impl QueueOptions {
    /// Returns the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the maximum number of deliveries of a message; default 5. A message whose last delivery fails is
    /// moved to the dead letters.
    pub fn max_deliveries(mut self, deliveries: u32) -> Self {
        self.max_deliveries = deliveries;
        self
    }

    /// Sets the wait before a failed message is delivered again; default 100 ms, doubled with each failure up
    /// to 30 s. Each wait is shortened at random, to at least half.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = first;
        self.longest_backoff = longest;
        self
    }

    /// Sets the silence after which the messages of a subscription are delivered to another member of its
    /// group; default 60 s, from 50 ms to a day. A handler may run longer than that and even block its
    /// thread: a thread of the hub renews the lease of its messages three times in this period. Use the same
    /// value for all subscriptions of a group.
    ///
    /// It has no effect in memory, where a subscription's messages are released as soon as it is dropped.
    pub fn claim_after(mut self, silence: Duration) -> Self {
        self.claim_after = silence;
        self
    }

    /// Sets how many handlers run at once; default 1, from 1 to 1,024. With 1, messages are handled in order,
    /// and a message that waits for redelivery holds up those behind it. With more there is no order, and
    /// each waiting message occupies one handler.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.max_deliveries == 0 {
            return Err(Error::setting("max_deliveries", 0, "expected 1 or more"));
        }
        if !(1..=CONCURRENCY).contains(&self.concurrency) {
            let reason = format!("expected 1 to {CONCURRENCY}");
            return Err(Error::setting("concurrency", self.concurrency, reason));
        }
        if self.longest_backoff < self.backoff {
            let value = format!("{:?}, {:?}", self.backoff, self.longest_backoff);
            return Err(Error::setting(
                "backoff",
                value,
                "the first wait must not be longer than the longest",
            ));
        }
        if !(LEAST_CLAIM_AFTER..=GREATEST_CLAIM_AFTER).contains(&self.claim_after) {
            let reason = "expected 50 ms to 24 h; choose more than a few round trips to the backend";
            return Err(Error::setting("claim_after", format!("{:?}", self.claim_after), reason));
        }
        Ok(())
    }

    /// Returns how long a message waits after that many failures.
    pub(super) fn wait_after(&self, failures: u32) -> Duration {
        // 2^31 times the minimum wait exceeds any sensible maximum.
        let doubled = self.backoff.saturating_mul(1 << failures.saturating_sub(1).min(31));
        Pause::new(doubled, self.longest_backoff).next()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::QueueOptions;

    #[test]
    fn invalid_settings_are_rejected_by_name() {
        let new = QueueOptions::new;
        assert!(new().check().is_ok());
        for (wrong, name) in [
            (new().max_deliveries(0), "max_deliveries"),
            (new().concurrency(0), "concurrency"),
            (new().concurrency(1025), "concurrency"),
            (new().backoff(Duration::from_secs(2), Duration::from_secs(1)), "backoff"),
            (new().claim_after(Duration::from_millis(1)), "claim_after"),
            (new().claim_after(Duration::from_secs(100_000)), "claim_after"),
        ] {
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn the_wait_doubles_and_is_bounded() {
        let options = QueueOptions::new();
        for (failures, whole) in
            [(0, 100), (1, 100), (2, 200), (3, 400), (9, 25_600), (10, 30_000), (u32::MAX, 30_000)]
        {
            let (wait, whole) = (options.wait_after(failures), Duration::from_millis(whole));
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} after {failures} failures");
        }
    }
}
