//! Waits between attempts.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Waits that double up to a maximum. Each is shortened at random, so that those who failed together do not
/// retry together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    /// The next wait, before it is shortened.
    next: Duration,
    longest: Duration,
}

impl Pause {
    /// Creates waits from `first` to `longest`.
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// Creates the waits used while Redis is unavailable: short enough for a restart, long enough for an
    /// outage.
    pub(super) const fn reconnect() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(2))
    }

    /// Returns the next wait: at least half of its full length.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next.min(self.longest);
        self.next = wait.saturating_mul(2);
        let chance = RandomState::new().hash_one(()) >> 32;
        let half = wait / 2;
        half + half.mul_f64(chance as f64 / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Pause;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut pause = Pause::new(Duration::from_millis(100), Duration::from_millis(350));
        for whole in [100, 200, 350, 350, 350] {
            let wait = pause.next();
            let whole = Duration::from_millis(whole);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
        }
    }

    #[test]
    fn waits_are_randomized() {
        let first = |_| Pause::new(Duration::from_secs(1), Duration::from_secs(1)).next();
        let waits: std::collections::HashSet<_> = (0..32).map(first).collect();
        assert!(waits.len() > 16, "{waits:?}");
    }
}
