//! The messages of a run: their contents, and statistics of their reader.

use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;

use super::protocol::BusReport;
use crate::load::measure::{Times, histogram};

/// The length of a mark in bytes, and so the shortest message.
pub(super) const MARK: usize = 40;

/// Identifies a message, in hexadecimal at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The number of the run.
    pub(super) run: u32,
    /// The number of the message in the run.
    pub(super) number: u64,
    /// When it was sent, in nanoseconds of the system clock.
    pub(super) sent: u64,
}

impl Mark {
    /// Returns a message of `size` bytes.
    pub(super) fn message(self, size: usize) -> String {
        let Self { run, number, sent } = self;
        let mut text = String::with_capacity(size);
        // Writing to a string cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{run:08x}{number:016x}{sent:016x}"));
        text.extend(std::iter::repeat_n('x', size.saturating_sub(MARK)));
        text
    }

    /// Parses a message.
    pub(super) fn of(message: &[u8]) -> Option<Self> {
        let mark = std::str::from_utf8(message.get(..MARK)?).ok()?;
        let hex = |from: usize, to: usize| u64::from_str_radix(mark.get(from..to)?, 16).ok();
        Some(Self { run: hex(0, 8)? as u32, number: hex(8, 24)?, sent: hex(24, 40)? })
    }
}

/// Returns the current time in nanoseconds, from a clock that all processes on a machine
/// share.
pub(super) fn now() -> u64 {
    // With a clock before 1970, every message seems to arrive before it was sent, which
    // is counted.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// What one reader has received of a run.
pub(super) struct Seen {
    /// The run. Messages of other runs are ignored.
    run: u32,
    /// One more than the highest number received.
    next: u64,
    pub(super) received: u64,
    /// The number of messages skipped.
    gaps: u64,
    /// Messages that arrived late or twice.
    pub(super) order_errors: u64,
    /// Messages that arrived before they were sent: the clock was changed.
    pub(super) clock_errors: u64,
    /// Time from sending to receiving, in nanoseconds.
    times: Histogram<u64>,
    /// When the first and the last message arrived.
    span: Option<(Instant, Instant)>,
}

impl Seen {
    /// Creates empty statistics.
    pub(super) fn new(run: u32) -> Self {
        let times = histogram();
        Self { run, next: 0, received: 0, gaps: 0, order_errors: 0, clock_errors: 0, times, span: None }
    }

    /// Records a message.
    pub(super) fn take(&mut self, message: &[u8]) {
        let Some(mark) = Mark::of(message).filter(|mark| mark.run == self.run) else { return };
        let at = Instant::now();
        self.span = Some((self.span.map_or(at, |(first, _)| first), at));
        self.received += 1;
        match mark.number.checked_sub(self.next) {
            Some(left_out) => {
                self.gaps += left_out;
                self.next = mark.number + 1;
            }
            None => self.order_errors += 1,
        }
        match now().checked_sub(mark.sent) {
            Some(time) => self.times.saturating_record(time.max(1)),
            None => self.clock_errors += 1,
        }
    }

    /// Returns how many of `sent` messages never arrived.
    pub(super) fn lost(&self, sent: u64) -> u64 {
        self.gaps + sent.saturating_sub(self.next)
    }

    /// Returns the time from sending to receiving.
    pub(super) fn latency(&self) -> Option<Times> {
        Times::of(&self.times)
    }

    /// Returns the time from the first to the last message.
    pub(super) fn span(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(first, last)| last - first)
    }

    /// Returns the statistics in serializable form.
    pub(super) fn report(&self) -> BusReport {
        BusReport {
            received: self.received,
            next: self.next,
            gaps: self.gaps,
            order_errors: self.order_errors,
            clock_errors: self.clock_errors,
            latency: self.latency(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_their_mark() {
        let mark = Mark { run: 7, number: u64::MAX, sent: 1 << 60 };
        let message = mark.message(64);
        assert_eq!((message.len(), Mark::of(message.as_bytes())), (64, Some(mark)));
        assert_eq!(Mark::of(b"short"), None);
        assert_eq!(Mark::of(&[b'z'; 64]), None);
    }

    #[test]
    fn loss_and_order_are_detected() {
        let mut seen = Seen::new(1);
        let mut take = |run, number, sent| seen.take(Mark { run, number, sent }.message(64).as_bytes());
        for number in [0, 1, 4, 3] {
            take(1, number, now());
        }
        take(2, 5, 0); // of another run
        take(1, 5, now() + 1_000_000_000_000);
        assert_eq!((seen.received, seen.order_errors, seen.clock_errors), (5, 1, 1));
        assert_eq!(
            (seen.lost(6), seen.lost(8)),
            (2, 4),
            "3 arrived late, 2 never did, nor did those after the last"
        );
        assert_eq!(seen.latency().unwrap().count, 4);
    }
}
