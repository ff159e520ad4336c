//! The server's lives: a long one, and short ones before and after it, which alternate between two ways to end.

use std::time::Duration;

use crate::load::random::Random;

/// The long life's fraction of the time.
const LONG_SHARE: f64 = 0.55;
/// The number of cycles in the long life, if time allows.
const CYCLES: u32 = 12;
/// The shortest and longest duration of a cycle.
const CYCLE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(10));
/// The fewest and most short lives.
const SHORT_LIVES: (u32, u32) = (2, 8);

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Term,
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) time: Duration,
    pub(super) end: End,
}

/// The lives of a run, and the duration of a cycle.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) lives: Vec<Life>,
    pub(super) cycle: Duration,
}

impl Plan {
    pub(super) fn new(total: Duration, random: &mut Random) -> Self {
        let long = total.mul_f64(LONG_SHARE);
        let cycle = (long / CYCLES).clamp(CYCLE.0, CYCLE.1);
        let rest = total - long;
        // One cycle, plus time for the end.
        let count = (rest.as_secs_f64() / cycle.as_secs_f64() / 1.5) as u32;
        let count = count.clamp(SHORT_LIVES.0, SHORT_LIVES.1);
        let odd = random.next() as u32 & 1;
        let short = |index: u32| Life {
            time: rest / count,
            end: if index & 1 == odd { End::Kill } else { End::Term },
        };
        let mut lives: Vec<Life> = (0..count).map(short).collect();
        let place = random.next() % (u64::from(count) + 1);
        lives.insert(place as usize, Life { time: long, end: End::Term });
        Self { lives, cycle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_life_gets_most_of_the_time_and_both_ends_occur() {
        for seed in 0..50 {
            for minutes in [0.3, 3.0, 10.0, 600.0] {
                let total = Duration::from_secs_f64(minutes * 60.0);
                let Plan { lives, cycle } = Plan::new(total, &mut Random::new(seed));
                let longest = lives.iter().max_by_key(|life| life.time).unwrap();
                assert!(longest.time * 2 >= total && longest.end == End::Term, "{lives:?}");
                assert!(longest.time >= cycle * 3, "{lives:?}");
                let all: Duration = lives.iter().map(|life| life.time).sum();
                assert!(all.abs_diff(total) < Duration::from_millis(1), "{lives:?}");
                for end in [End::Term, End::Kill] {
                    assert!(
                        lives.iter().any(|life| life.end == end && life.time < longest.time),
                        "{lives:?}"
                    );
                }
            }
        }
        let plan = |seed| Plan::new(Duration::from_secs(60), &mut Random::new(seed)).lives;
        assert_eq!(plan(3), plan(3), "the same seed gives the same plan");
    }
}
