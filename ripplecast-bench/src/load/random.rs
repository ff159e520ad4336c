//! Fast random numbers for masking keys, pauses and random choices. Not for secrets.

use std::time::Duration;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Creates a generator. The same seed produces the same numbers.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a different seed for each run.
    pub(crate) fn fresh_seed() -> u64 {
        use std::hash::{BuildHasher as _, RandomState};
        RandomState::new().hash_one(0_u8)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a masking key.
    pub(crate) fn key(&mut self) -> [u8; 4] {
        // The low half is as random as the high half.
        (self.next() as u32).to_ne_bytes()
    }

    /// Returns a number from 0 (inclusive) to 1 (exclusive).
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a uniformly distributed duration below `longest`.
    pub(crate) fn up_to(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.fraction())
    }

    /// Returns the time to the next of independent events with this mean interval.
    pub(crate) fn gap(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.fraction()).ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_requested_mean() {
        let mut random = Random::new(7);
        let total: Duration = (0..10_000).map(|_| random.gap(Duration::from_secs(1))).sum();
        assert!((9_500..10_500).contains(&total.as_secs()), "{total:?}");
        assert!((0..1000).all(|_| random.up_to(Duration::from_secs(1)) < Duration::from_secs(1)));
    }
}
