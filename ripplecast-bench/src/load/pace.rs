//! When the next message is to be sent.

use std::time::Duration;

/// What decides when a message is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// As soon as fewer than so many are under way.
    Window(usize),
    /// So many a second, whatever became of those before.
    Rate(f64),
}

/// A part of a run: how fast, how much, how long.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pace: Pace,
    /// When it began, in nanoseconds like all times here.
    begin: u64,
    /// When it ends.
    until: Option<u64>,
    /// Messages after which it ends.
    most: Option<u32>,
    /// Messages sent so far.
    pub(super) sent: u32,
}

/// How long a schedule may overrun its time to send what had been due before, in nanoseconds.
const GRACE: u64 = 10_000_000_000;

impl Schedule {
    pub(super) fn new(pace: Pace, now: u64, most: Option<u32>, time: Option<Duration>) -> Self {
        let until = time.map(|time| now + time.as_nanos() as u64);
        Self { pace, begin: now, until, most, sent: 0 }
    }

    /// The time from which the latency of the next message counts, if it is to be sent now.
    pub(super) fn due(&self, now: u64, under_way: usize) -> Option<u64> {
        if self.is_over(now) {
            return None;
        }
        match self.pace {
            Pace::Window(window) => (under_way < window).then_some(now),
            // Not when it is sent: a message that had to wait for the ones before it is late already.
            Pace::Rate(rate) => Some(self.intended(rate)).filter(|intended| *intended <= now),
        }
    }

    /// Whether no more messages are to be sent.
    pub(super) fn is_over(&self, now: u64) -> bool {
        if self.most.is_some_and(|most| self.sent >= most) || self.sent == u32::MAX {
            return true;
        }
        match (self.pace, self.until) {
            (_, None) => false,
            (Pace::Window(_), Some(until)) => now >= until,
            (Pace::Rate(rate), Some(until)) => self.intended(rate) >= until || now >= until + GRACE,
        }
    }

    /// How long there is nothing to do, if nothing comes. The last millisecond is not slept, since sleep is coarse.
    pub(super) fn rest(&self, now: u64) -> Duration {
        match self.pace {
            Pace::Rate(rate) if !self.is_over(now) => {
                Duration::from_millis(self.intended(rate).saturating_sub(now) / 1_000_000)
            }
            _ => Duration::MAX,
        }
    }

    /// How much of it is done, from 0 to 1.
    pub(super) fn done(&self, now: u64) -> f64 {
        let by_count = self.most.map_or(0.0, |most| f64::from(self.sent) / f64::from(most));
        let passed = now.saturating_sub(self.begin) as f64;
        let by_time = self.until.map_or(0.0, |until| passed / (until - self.begin).max(1) as f64);
        by_count.max(by_time)
    }

    /// When the next message is due.
    fn intended(&self, rate: f64) -> u64 {
        self.begin + (f64::from(self.sent) / rate * 1e9) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_window_waits_for_what_is_under_way() {
        let mut schedule = Schedule::new(Pace::Window(2), 5, Some(3), None);
        assert_eq!(schedule.due(7, 1), Some(7));
        assert_eq!(schedule.due(7, 2), None);
        schedule.sent = 3;
        assert!(schedule.is_over(7) && schedule.due(7, 0).is_none());
    }

    #[test]
    fn a_rate_counts_from_when_a_message_was_due() {
        let mut schedule = Schedule::new(Pace::Rate(10.0), 0, None, Some(Duration::from_secs(1)));
        schedule.sent = 1;
        assert_eq!(schedule.due(SECOND / 20, 0), None);
        assert_eq!(schedule.rest(SECOND / 20), Duration::from_millis(50));
        // The generator was held up: what should have gone out meanwhile is late by as much.
        assert_eq!(schedule.due(SECOND / 2, 1000), Some(SECOND / 10));
        schedule.sent = 9;
        assert_eq!(schedule.due(2 * SECOND, 0), Some(9 * SECOND / 10));
        schedule.sent = 10;
        assert!(schedule.is_over(SECOND / 2));
    }
}
