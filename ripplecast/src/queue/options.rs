//! What a subscription may be told.

use std::time::Duration;

use super::pause::Pause;
use crate::{Error, Result};

/// Deliveries of one message at the most: enough to outlast a restart of what the handler needs.
const DELIVERIES: u32 = 5;
/// The first wait before a message is tried again.
const BACKOFF: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// Silence after which another takes over: within the 90 s in which the other nodes sweep one that died.
const CLAIM_AFTER: Duration = Duration::from_secs(60);
/// The least setting of that: a holder needs time for a few round trips.
const LEAST_CLAIM_AFTER: Duration = Duration::from_millis(50);
/// The greatest setting: longer than a day hides a fault.
const GREATEST_CLAIM_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Handlers of one subscription that may run at once: each holds a message, and a task.
const CONCURRENCY: usize = 1024;

/// How a subscription of a stream handles its messages; for
/// [`ReliableStream::subscribe_with`](crate::queue::ReliableStream::subscribe_with).
///
/// ```
/// use ripplecast::ReliableOptions;
/// use std::time::Duration;
///
/// let options = ReliableOptions::new()
///     .concurrency(8) // eight handlers at once, in no order
///     .max_deliveries(10)
///     .backoff(Duration::from_millis(500), Duration::from_secs(60));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct ReliableOptions {
    /// Deliveries of one message before it is dead.
    pub(super) max_deliveries: u32,
    /// The first wait before a message is tried again.
    backoff: Duration,
    /// The longest.
    longest_backoff: Duration,
    /// Silence after which another takes over.
    pub(super) claim_after: Duration,
    /// How many handlers run at once.
    pub(super) concurrency: usize,
}

impl Default for ReliableOptions {
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

impl ReliableOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How often a message is delivered at the most; default 5. One whose last delivery fails is moved to the dead letters.
    #[must_use]
    pub fn max_deliveries(mut self, deliveries: u32) -> Self {
        self.max_deliveries = deliveries;
        self
    }

    /// The wait before a message that failed is tried again; default 100 ms, doubled with each failure up to 30 s. Chance
    /// shortens each wait, to no less than half of it.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = first;
        self.longest_backoff = longest;
        self
    }

    /// The silence after which what a subscription holds goes to another of its group; default 60 s, possible 50 ms to a
    /// day. A handler may run for longer, and block its thread: what a subscription holds is renewed three times in this
    /// time, from a thread of the hub's own. Give all subscriptions of a group the same.
    ///
    /// In memory it has no effect: what a subscription held is free as soon as that is gone.
    #[must_use]
    pub fn claim_after(mut self, silence: Duration) -> Self {
        self.claim_after = silence;
        self
    }

    /// How many handlers run at once; default 1, possible 1 to 1,024. With 1, messages are handled in their order: one that
    /// waits to be tried again holds up those behind it. With more there is no order, and each that waits takes one place.
    #[must_use]
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers;
        self
    }

    /// Checks the settings.
    pub(super) fn check(&self) -> Result<()> {
        if self.max_deliveries == 0 {
            return Err(Error::setting(
                "max_deliveries",
                0,
                "a message is delivered at least once; give 1 or more",
            ));
        }
        if !(1..=CONCURRENCY).contains(&self.concurrency) {
            let reason = format!("from 1 to {CONCURRENCY} handlers may run at once");
            return Err(Error::setting("concurrency", self.concurrency, reason));
        }
        if self.longest_backoff < self.backoff {
            let value = format!("{:?}, {:?}", self.backoff, self.longest_backoff);
            return Err(Error::setting("backoff", value, "the first wait can't be longer than the longest"));
        }
        if !(LEAST_CLAIM_AFTER..=GREATEST_CLAIM_AFTER).contains(&self.claim_after) {
            let reason = "from 50 ms to 24 h are possible; take more than a few round trips to the backend";
            return Err(Error::setting("claim_after", format!("{:?}", self.claim_after), reason));
        }
        Ok(())
    }

    /// How long a message waits after it failed that many times.
    pub(super) fn wait_after(&self, failures: u32) -> Duration {
        // 2^31 times the least wait is beyond any longest one that makes sense.
        let doubled = self.backoff.saturating_mul(1 << failures.saturating_sub(1).min(31));
        Pause::new(doubled, self.longest_backoff).next()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::ReliableOptions;

    #[test]
    fn impossible_settings_are_refused_by_name() {
        let new = ReliableOptions::new;
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
        let options = ReliableOptions::new();
        for (failures, whole) in
            [(0, 100), (1, 100), (2, 200), (3, 400), (9, 25_600), (10, 30_000), (u32::MAX, 30_000)]
        {
            let (wait, whole) = (options.wait_after(failures), Duration::from_millis(whole));
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} after {failures} failures");
        }
    }
}
