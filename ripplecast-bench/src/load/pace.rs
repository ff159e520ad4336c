//! Schedules when the next message is sent.

use std::time::Duration;

/// What determines when a message is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// As soon as fewer than this many are in flight.
    Window(usize),
    /// This many per second, whatever happened to earlier ones.
    Rate(f64),
}

/// A part of a run: its pace, number of messages and duration.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pace: Pace,
    /// When it started, in nanoseconds like all times here.
    begin: u64,
    until: Option<u64>,
    /// The number of messages after which it ends.
    most: Option<u32>,
    pub(super) sent: u32,
}

/// How long a schedule may overrun to send messages that were due earlier, in nanoseconds.
const GRACE: u64 = 10_000_000_000;

impl Schedule {
    pub(super) fn new(pace: Pace, now: u64, most: Option<u32>, time: Option<Duration>) -> Self {
        let until = time.map(|time| now + time.as_nanos() as u64);
        Self { pace, begin: now, until, most, sent: 0 }
    }

    /// Returns the start of the next message's latency, if it is to be sent now.
    pub(super) fn due(&self, now: u64, under_way: usize) -> Option<u64> {
        if self.is_over(now) {
            return None;
        }
        match self.pace {
            Pace::Window(window) => (under_way < window).then_some(now),
            // Not the time of sending: a message delayed by earlier ones is already late.
            Pace::Rate(rate) => Some(self.intended(rate)).filter(|intended| *intended <= now),
        }
    }

    /// Returns whether no more messages are to be sent.
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

    /// Returns how long there is nothing to do unless something arrives. Does not sleep for the last millisecond,
    /// because sleep is imprecise.
    pub(super) fn rest(&self, now: u64) -> Duration {
        match self.pace {
            Pace::Rate(rate) if !self.is_over(now) => {
                Duration::from_millis(self.intended(rate).saturating_sub(now) / 1_000_000)
            }
            _ => Duration::MAX,
        }
    }

    /// Returns the progress from 0 to 1.
    pub(super) fn done(&self, now: u64) -> f64 {
        let by_count = self.most.map_or(0.0, |most| f64::from(self.sent) / f64::from(most));
        let passed = now.saturating_sub(self.begin) as f64;
        let by_time = self.until.map_or(0.0, |until| passed / (until - self.begin).max(1) as f64);
        by_count.max(by_time)
    }

    /// Returns when the next message is due.
    fn intended(&self, rate: f64) -> u64 {
        self.begin + (f64::from(self.sent) / rate * 1e9) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_window_waits_for_messages_in_flight() {
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
        // The generator was delayed: messages due in the meantime are late by as much.
        assert_eq!(schedule.due(SECOND / 2, 1000), Some(SECOND / 10));
        schedule.sent = 9;
        assert_eq!(schedule.due(2 * SECOND, 0), Some(9 * SECOND / 10));
        schedule.sent = 10;
        assert!(schedule.is_over(SECOND / 2));
    }
}
