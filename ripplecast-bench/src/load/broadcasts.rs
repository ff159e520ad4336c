//! Broadcasts: what was sent, who has received it, and in which order.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use super::{
    frames::Messages,
    measure::histogram,
    pace::Schedule,
    pool::{Pool, Sink},
    report::Checks,
};
use crate::result::Result;

/// The number of messages whose times are kept when the set of receivers is unknown.
const KEPT: usize = 1 << 16;
/// The most bytes a publisher's socket may have queued before it gets no more messages.
const BACKLOG: usize = 16 << 20;

/// The expected receivers of a message.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Audience {
    /// Every reader, so that it is known when all have received a message.
    All,
    /// Whichever readers are connected.
    Any,
}

/// An event for the modes that cut connections.
pub(super) enum LoadEvent {
    /// A connection has opened.
    Opened { index: usize, now: u64 },
    /// A connection has received its first message after reconnecting and missing some.
    Rejoined { index: usize, now: u64, missed: u32 },
}

/// The figures of the measured part.
pub(super) struct Figures {
    pub(super) deliveries: u64,
    pub(super) latency: Histogram<u64>,
    /// Time to the last delivery of each message.
    pub(super) last: Histogram<u64>,
    /// Time of the last delivery.
    pub(super) end: u64,
}

/// What the slow readers received.
#[derive(Default)]
pub(super) struct SlowFigures {
    pub(super) read: u64,
    pub(super) left_out: u64,
    pub(super) closed: u64,
}

/// Broadcasts and their deliveries. Message `n` is sent by publisher `n % publishers`.
pub(super) struct Broadcasts {
    messages: Messages,
    publishers: u32,
    /// Connections with a lower index read everything they receive.
    readers: usize,
    /// Readers whose connection has not failed.
    alive: u32,
    audience: Audience,
    /// For each connection, one entry per publisher.
    seen: Vec<Seen>,
    /// The number of readers' entries in `seen` that have joined.
    joined: usize,
    /// The messages in flight, from number `base` on.
    flight: VecDeque<Flight>,
    base: u32,
    /// The number of the next message.
    next: u32,
    under_way: usize,
    pub(super) figures: Figures,
    pub(super) slow: SlowFigures,
    pub(super) checks: Checks,
    /// Messages skipped, and messages that arrived late or twice.
    skipped: u64,
    late: u64,
    /// Pending events, or `None` if nothing consumes them.
    pub(super) events: Option<Vec<LoadEvent>>,
}

/// What a connection has received from one publisher.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// The next expected number, once joined.
    next: u32,
    joined: bool,
}

/// A message in flight.
struct Flight {
    /// The start of its latency.
    since: u64,
    /// How many readers have yet to receive it.
    due: u32,
}

impl Broadcasts {
    pub(super) fn new(
        messages: Messages,
        connections: usize,
        readers: usize,
        publishers: usize,
        audience: Audience,
    ) -> Self {
        Self {
            messages,
            publishers: publishers as u32,
            readers,
            alive: readers as u32,
            audience,
            seen: vec![Seen::default(); connections * publishers],
            joined: 0,
            flight: VecDeque::new(),
            base: 0,
            next: 0,
            under_way: 0,
            figures: Figures::new(),
            slow: SlowFigures::default(),
            checks: Checks::default(),
            skipped: 0,
            late: 0,
            events: None,
        }
    }

    /// Resets the figures and the messages in flight. The order and loss checks continue.
    pub(super) fn begin(&mut self) {
        self.figures = Figures::new();
        self.flight.clear();
        self.base = self.next;
        self.under_way = 0;
    }

    /// Returns whether all publishers are connected.
    pub(super) fn can_publish(&self, pool: &Pool) -> bool {
        (0..self.publishers as usize).all(|index| pool.is_open(index))
    }

    /// Sends the messages that are due.
    pub(super) fn publish(&mut self, pool: &mut Pool, schedule: &mut Schedule, now: u64) {
        let (first, mut count) = (self.next, 0);
        while let Some(since) = schedule.due(now, self.under_way) {
            let publisher = (self.next % self.publishers) as usize;
            if !pool.is_open(publisher) || pool.backlog(publisher) > BACKLOG {
                break;
            }
            self.write(pool, since);
            schedule.sent += 1;
            count += 1;
        }
        for number in first..first + count.min(self.publishers) {
            pool.flush((number % self.publishers) as usize, self);
        }
    }

    /// Sends one message from each publisher that is able to.
    pub(super) fn probe(&mut self, pool: &mut Pool, now: u64) {
        for _ in 0..self.publishers {
            let publisher = (self.next % self.publishers) as usize;
            if !pool.is_open(publisher) {
                break;
            }
            self.write(pool, now);
            pool.flush(publisher, self);
        }
    }

    fn write(&mut self, pool: &mut Pool, since: u64) {
        let number = self.next;
        pool.write((number % self.publishers) as usize, &mut self.messages, number);
        self.next += 1;
        let due = match self.audience {
            Audience::All => self.alive,
            Audience::Any => u32::MAX,
        };
        self.flight.push_back(Flight { since, due });
        self.under_way += 1;
        if self.audience == Audience::Any && self.flight.len() > KEPT {
            self.flight.pop_front();
            self.base += 1;
        }
    }

    /// Returns the number of messages that are not fully delivered.
    pub(super) const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Returns the number of readers without a message since they connected.
    pub(super) fn waiting(&self) -> usize {
        (self.alive as usize * self.publishers as usize)
            .saturating_sub(self.joined)
            .div_ceil(self.publishers as usize)
    }

    /// Records that we cut a connection: messages it misses from now on are not lost.
    pub(super) fn leave(&mut self, index: usize) {
        for seen in self.of(index) {
            let joined = std::mem::take(&mut self.seen[seen].joined);
            self.joined -= usize::from(joined && index < self.readers);
        }
    }

    /// Returns whether all joined readers have received everything.
    pub(super) fn is_settled(&self) -> bool {
        self.missing() == 0
    }

    /// Ends the checks. Skipped messages are lost, and so are undelivered ones unless the run was
    /// `interrupted`.
    pub(super) fn settle(&mut self, interrupted: bool) {
        let missing = if interrupted { 0 } else { self.missing() };
        self.checks.lost = (self.skipped + missing).saturating_sub(self.late);
    }

    /// Returns the number of deliveries that joined readers have not received.
    fn missing(&self) -> u64 {
        let readers = &self.seen[..self.readers * self.publishers as usize];
        let behind = |seen: &Seen| u64::from(self.next.saturating_sub(seen.next).div_ceil(self.publishers));
        readers.iter().filter(|seen| seen.joined).map(behind).sum()
    }

    /// Returns the range of a connection's entries in `seen`.
    fn of(&self, index: usize) -> std::ops::Range<usize> {
        let publishers = self.publishers as usize;
        index * publishers..(index + 1) * publishers
    }

    /// Records one delivery of message `number`.
    #[inline]
    fn release(&mut self, number: u32, now: u64) {
        let Some(flight) = self.flight.get_mut(number.wrapping_sub(self.base) as usize) else { return };
        if self.audience == Audience::Any || flight.due == 0 {
            return;
        }
        flight.due -= 1;
        if flight.due > 0 {
            return;
        }
        self.figures.last.saturating_record(now - flight.since.min(now));
        self.under_way -= 1;
        while self.flight.front().is_some_and(|flight| flight.due == 0) {
            self.flight.pop_front();
            self.base += 1;
        }
    }

    /// Handles the first message after a connection has joined.
    #[cold]
    fn join(&mut self, index: usize, place: usize, number: u32, now: u64) {
        let seen = &mut self.seen[place];
        let missed = (number - seen.next.min(number)) / self.publishers;
        let first_ever = seen.next == 0;
        seen.joined = true;
        self.joined += usize::from(index < self.readers);
        if let Some(events) = &mut self.events
            && !first_ever
        {
            events.push(LoadEvent::Rejoined { index, now, missed });
        }
    }

    /// Handles a message other than the expected one. Returns false if it is late or a duplicate.
    #[cold]
    fn out_of_turn(&mut self, index: usize, expected: u32, number: u32) -> bool {
        if number < expected {
            self.checks.order_errors += 1;
            self.late += 1;
            return false;
        }
        let gap = u64::from((number - expected) / self.publishers);
        if index < self.readers {
            self.skipped += gap;
        } else {
            self.slow.left_out += gap;
        }
        true
    }
}

impl Sink for Broadcasts {
    fn opened(&mut self, index: usize, now: u64) {
        if let Some(events) = &mut self.events {
            events.push(LoadEvent::Opened { index, now });
        }
    }

    #[inline]
    fn message(&mut self, index: usize, payload: &[u8], now: u64) {
        // Others may use the same server.
        let Some(number) = self.messages.number(payload) else { return };
        let publisher = if self.publishers == 1 { 0 } else { number % self.publishers };
        let place = index * self.publishers as usize + publisher as usize;
        let Seen { next, joined } = self.seen[place];
        if !joined {
            self.join(index, place, number, now);
        } else if number != next && !self.out_of_turn(index, next, number) {
            return;
        }
        self.seen[place].next = number + self.publishers;
        if index >= self.readers {
            self.slow.read += 1;
            return;
        }
        if let Some(flight) = self.flight.get(number.wrapping_sub(self.base) as usize) {
            self.figures.deliveries += 1;
            self.figures.end = now;
            self.figures.latency.saturating_record(now - flight.since.min(now));
            self.release(number, now);
        }
    }

    fn closed(&mut self, index: usize, why: &str) {
        if index >= self.readers {
            self.slow.closed += 1;
            return;
        }
        self.checks.dead += 1;
        self.checks.first_death.get_or_insert_with(|| why.to_owned());
        self.alive -= 1;
        for place in self.of(index) {
            let Seen { next, joined } = self.seen[place];
            if joined {
                // Messages that it would have received are no longer expected.
                let step = self.publishers as usize;
                (next..self.next).step_by(step).for_each(|number| self.release(number, 0));
            }
        }
        self.leave(index);
    }
}

impl Figures {
    fn new() -> Self {
        Self { deliveries: 0, latency: histogram(), last: histogram(), end: 0 }
    }
}

/// Returns the error for a server that does not broadcast.
pub(super) fn nothing_received(waiting: usize, of: usize, url: &str) -> Result<()> {
    Err(format!(
        "{waiting} of {of} connections received no message: {url} must broadcast each text frame to all connections (for a path that \
         echoes frames, use --mode echo)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::random::Random;

    /// Two readers and one publisher, with direct delivery of any message.
    struct Bed {
        broadcasts: Broadcasts,
        plain: Vec<u8>,
    }

    impl Bed {
        fn new() -> Self {
            let mut random = Random::new(1);
            let mut messages = Messages::new(16, &mut random);
            let mut plain = Vec::new();
            messages.write(0, [0; 4], &mut plain);
            plain.drain(..6);
            Self { broadcasts: Broadcasts::new(messages, 2, 2, 1, Audience::All), plain }
        }

        /// Marks `count` messages as sent.
        fn sent(&mut self, count: u32) {
            for _ in 0..count {
                self.broadcasts.flight.push_back(Flight { since: 0, due: self.broadcasts.alive });
                self.broadcasts.under_way += 1;
                self.broadcasts.next += 1;
            }
        }

        fn comes(&mut self, index: usize, number: u32) {
            let text = format!("{}{number:08x}", String::from_utf8_lossy(&self.plain[..8]));
            self.broadcasts.message(index, text.as_bytes(), 10);
        }
    }

    #[test]
    fn complete_ordered_delivery_has_no_faults() {
        let mut bed = Bed::new();
        bed.sent(3);
        assert_eq!(bed.broadcasts.waiting(), 2);
        for number in 0..3 {
            bed.comes(0, number);
            bed.comes(1, number);
        }
        bed.broadcasts.settle(false);
        assert_eq!(bed.broadcasts.checks.complaint(), None);
        assert_eq!(
            (bed.broadcasts.figures.deliveries, bed.broadcasts.under_way(), bed.broadcasts.waiting()),
            (6, 0, 0)
        );
        assert_eq!(bed.broadcasts.figures.last.len(), 3);
    }

    #[test]
    fn undelivered_messages_are_lost() {
        let mut bed = Bed::new();
        bed.sent(4);
        for number in [0, 1, 3] {
            bed.comes(0, number);
        }
        bed.comes(1, 0);
        assert!(!bed.broadcasts.is_settled());
        bed.broadcasts.settle(true);
        assert_eq!(bed.broadcasts.checks.lost, 1);
        bed.broadcasts.settle(false);
        // Number 2 at the first reader, 1 to 3 at the second.
        assert_eq!((bed.broadcasts.checks.lost, bed.broadcasts.checks.order_errors), (4, 0));
        assert_eq!(bed.broadcasts.under_way(), 3);
    }

    #[test]
    fn late_and_duplicate_messages_are_out_of_order() {
        let mut bed = Bed::new();
        bed.sent(3);
        for number in [0, 2, 1] {
            bed.comes(0, number);
        }
        for number in [0, 1, 2] {
            bed.comes(1, number);
        }
        bed.broadcasts.settle(false);
        assert_eq!((bed.broadcasts.checks.lost, bed.broadcasts.checks.order_errors), (0, 1));
        bed.comes(1, 2);
        assert_eq!(bed.broadcasts.checks.order_errors, 2);
    }

    #[test]
    fn nothing_is_expected_at_a_dead_connection() {
        let mut bed = Bed::new();
        bed.sent(2);
        for number in [0, 1] {
            bed.comes(0, number);
        }
        bed.comes(1, 0);
        assert_eq!(bed.broadcasts.under_way(), 1);
        bed.broadcasts.closed(1, "the server closed it");
        assert_eq!(
            (bed.broadcasts.under_way(), bed.broadcasts.checks.dead, bed.broadcasts.waiting()),
            (0, 1, 0)
        );
        bed.broadcasts.settle(false);
        assert_eq!(bed.broadcasts.checks.lost, 0);
    }

    #[test]
    fn a_reader_that_was_cut_has_missed_messages_not_lost_them() {
        let mut bed = Bed::new();
        bed.broadcasts.events = Some(Vec::new());
        bed.sent(1);
        bed.comes(0, 0);
        bed.comes(1, 0);
        bed.broadcasts.leave(1);
        bed.sent(4);
        (1..5).for_each(|number| bed.comes(0, number));
        bed.comes(1, 4);
        bed.broadcasts.settle(false);
        assert_eq!(bed.broadcasts.checks.complaint(), None);
        let events = bed.broadcasts.events.take().unwrap();
        assert!(matches!(events[..], [LoadEvent::Rejoined { index: 1, missed: 3, .. }]));
    }
}
