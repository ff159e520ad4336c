//! How long to wait before trying again: longer each time, and not all nodes at once.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// The first wait. A restart that is over at once costs little.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait: how long a server that is back may go unnoticed.
const LONGEST: Duration = Duration::from_secs(2);

/// Waits that double, each cut by a random part of up to a half.
#[derive(Default)]
pub(crate) struct Backoff {
    /// Waits so far.
    waits: u32,
}

impl Backoff {
    /// Whether there was no wait yet.
    pub(crate) fn is_first(&self) -> bool {
        self.waits == 0
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let longest = FIRST.saturating_mul(1 << self.waits.min(16)).min(LONGEST);
        self.waits += 1;
        let random = RandomState::new().hash_one(self.waits) % 512;
        longest.mul_f64(1.0 - random as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_differ() {
        let mut backoff = Backoff::default();
        assert!(backoff.is_first());
        let waits: Vec<_> = (0..100).map(|_| backoff.next()).collect();
        assert!(!backoff.is_first());
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2);
        assert!(waits.iter().all(|&wait| wait <= LONGEST));
        assert!(waits[50..].iter().all(|&wait| wait >= LONGEST / 2));
        assert!(waits[50..].iter().collect::<std::collections::HashSet<_>>().len() > 1);
    }
}
