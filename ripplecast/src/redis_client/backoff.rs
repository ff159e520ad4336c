//! Waits between attempts: longer each time, and different on each node.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// The first wait: short, because a restart may be over at once.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait: how long an available server may go unnoticed.
const LONGEST: Duration = Duration::from_secs(2);

/// Waits that double, each shortened at random by up to half.
#[derive(Default)]
pub(crate) struct Backoff {
    waits: u32,
}

impl Backoff {
    /// Returns whether there was no wait yet.
    pub(crate) fn is_first(&self) -> bool {
        self.waits == 0
    }

    /// Returns the next wait.
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
