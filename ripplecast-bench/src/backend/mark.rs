//! The messages of a run: what is in them, and what their reader makes of it.

use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;

use super::order::Heard;
use crate::load::measure::{Times, histogram};

/// Bytes of a mark, and so the shortest message.
pub(super) const MARK: usize = 40;

/// What tells a message from all others, in hexadecimal at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The run.
    pub(super) run: u32,
    /// Its number in the run.
    pub(super) number: u64,
    /// When it was sent, in nanoseconds of the system's clock.
    pub(super) sent: u64,
}

impl Mark {
    /// A message of that many bytes.
    pub(super) fn message(self, size: usize) -> String {
        let Self { run, number, sent } = self;
        let mut text = String::with_capacity(size);
        // Writing to a string can't fail.
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{run:08x}{number:016x}{sent:016x}"));
        text.extend(std::iter::repeat_n('x', size.saturating_sub(MARK)));
        text
    }

    /// Reads a message.
    pub(super) fn of(message: &[u8]) -> Option<Self> {
        let mark = std::str::from_utf8(message.get(..MARK)?).ok()?;
        let hex = |from: usize, to: usize| u64::from_str_radix(mark.get(from..to)?, 16).ok();
        Some(Self { run: hex(0, 8)? as u32, number: hex(8, 24)?, sent: hex(24, 40)? })
    }
}

/// Now, in nanoseconds of the clock that all processes of a machine share.
pub(super) fn now() -> u64 {
    // A clock before 1970 makes every message come before it was sent, which is counted.
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// What one reader has seen of a run.
pub(super) struct Seen {
    /// The run; what is of another is not looked at.
    run: u32,
    /// The number after the highest that came.
    next: u64,
    /// Messages that came.
    pub(super) received: u64,
    /// Numbers that were left out.
    gaps: u64,
    /// Messages that came late or twice.
    pub(super) order_errors: u64,
    /// Messages that came before they were sent: somebody set the clock.
    pub(super) clock_errors: u64,
    /// From when each was sent, in nanoseconds.
    times: Histogram<u64>,
    /// When the first and the last came.
    span: Option<(Instant, Instant)>,
}

impl Seen {
    /// Nothing yet.
    pub(super) fn new(run: u32) -> Self {
        let times = histogram();
        Self { run, next: 0, received: 0, gaps: 0, order_errors: 0, clock_errors: 0, times, span: None }
    }

    /// A message came.
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

    /// How many of so many never came.
    pub(super) fn lost(&self, sent: u64) -> u64 {
        self.gaps + sent.saturating_sub(self.next)
    }

    /// From when each was sent.
    pub(super) fn latency(&self) -> Option<Times> {
        Times::of(&self.times)
    }

    /// From the first to the last.
    pub(super) fn span(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(first, last)| last - first)
    }

    /// The same for another process.
    pub(super) fn heard(&self) -> Heard {
        Heard {
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
    fn loss_and_order_are_seen() {
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
            "3 came too late, 2 never, and what is behind the last"
        );
        assert_eq!(seen.latency().unwrap().count, 4);
    }
}
