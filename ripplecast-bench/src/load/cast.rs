//! Broadcasts: what was sent, who has it, in which order it came.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use super::{
    Result,
    frames::Messages,
    measure::histogram,
    pace::Schedule,
    pool::{Pool, Sink},
    report::Checks,
};

/// Messages whose times are kept when it is not known who should get them.
const KEPT: usize = 1 << 16;
/// Bytes that a publisher's socket may owe before it gets no more.
const BACKLOG: usize = 16 << 20;

/// Who should get a message.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Audience {
    /// Every reader, so that it is known when a message has come to all.
    All,
    /// Whoever is there.
    Whoever,
}

/// What a mode with cuts wants to hear of.
pub(super) enum News {
    /// A connection is open.
    Opened { index: usize, now: u64 },
    /// The first message came to a connection that had been away, after it missed some.
    Rejoined { index: usize, now: u64, missed: u32 },
}

/// The figures of the part that is measured.
pub(super) struct Figures {
    pub(super) deliveries: u64,
    pub(super) latency: Histogram<u64>,
    /// To the last delivery of each message.
    pub(super) last: Histogram<u64>,
    /// When the last delivery was.
    pub(super) end: u64,
}

/// What the slow readers got.
#[derive(Default)]
pub(super) struct SlowFigures {
    pub(super) read: u64,
    pub(super) left_out: u64,
    pub(super) closed: u64,
}

/// Broadcasts, and who has them. Message `n` is sent by publisher `n % publishers`.
pub(super) struct Cast {
    messages: Messages,
    publishers: u32,
    /// Connections below this read all they get.
    readers: usize,
    /// Readers that have not died.
    alive: u32,
    audience: Audience,
    /// For each connection, and in it for each publisher.
    seen: Vec<Seen>,
    /// How many of `seen` have joined, of readers.
    joined: usize,
    /// Messages under way, from number `base` on.
    flight: VecDeque<Flight>,
    base: u32,
    /// The number of the next message.
    next: u32,
    under_way: usize,
    pub(super) figures: Figures,
    pub(super) slow: SlowFigures,
    pub(super) checks: Checks,
    /// Messages that were passed over, and those of them that came after all, or others twice.
    skipped: u64,
    late: u64,
    /// `None` when nobody wants to hear.
    pub(super) news: Option<Vec<News>>,
}

/// What a connection has got from one publisher.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// The number that comes next; once it has joined.
    next: u32,
    joined: bool,
}

/// A message under way.
struct Flight {
    /// When its latency began.
    since: u64,
    /// How many are to get it yet.
    due: u32,
}

impl Cast {
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
            news: None,
        }
    }

    /// Forgets the figures so far, and what is under way. Order and loss are checked on.
    pub(super) fn begin(&mut self) {
        self.figures = Figures::new();
        self.flight.clear();
        self.base = self.next;
        self.under_way = 0;
    }

    /// Whether all publishers are there.
    pub(super) fn can_publish(&self, pool: &Pool) -> bool {
        (0..self.publishers as usize).all(|index| pool.is_open(index))
    }

    /// Sends what is due.
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

    /// One message from each publisher that can.
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
            Audience::Whoever => u32::MAX,
        };
        self.flight.push_back(Flight { since, due });
        self.under_way += 1;
        if self.audience == Audience::Whoever && self.flight.len() > KEPT {
            self.flight.pop_front();
            self.base += 1;
        }
    }

    /// Messages that somebody should get yet.
    pub(super) const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Readers that have got no message since they came.
    pub(super) fn waiting(&self) -> usize {
        (self.alive as usize * self.publishers as usize)
            .saturating_sub(self.joined)
            .div_ceil(self.publishers as usize)
    }

    /// A connection is cut by us: what it misses from now on is not lost.
    pub(super) fn leave(&mut self, index: usize) {
        for seen in self.of(index) {
            let joined = std::mem::take(&mut self.seen[seen].joined);
            self.joined -= usize::from(joined && index < self.readers);
        }
    }

    /// Whether all that was sent has come to all readers that joined.
    pub(super) fn is_settled(&self) -> bool {
        self.missing() == 0
    }

    /// The end: what was passed over is lost; and what has not come by now, unless it was `interrupted`.
    pub(super) fn settle(&mut self, interrupted: bool) {
        let missing = if interrupted { 0 } else { self.missing() };
        self.checks.lost = (self.skipped + missing).saturating_sub(self.late);
    }

    /// Deliveries that those who joined have not got.
    fn missing(&self) -> u64 {
        let readers = &self.seen[..self.readers * self.publishers as usize];
        let behind = |seen: &Seen| u64::from(self.next.saturating_sub(seen.next).div_ceil(self.publishers));
        readers.iter().filter(|seen| seen.joined).map(behind).sum()
    }

    /// Where a connection's state is.
    fn of(&self, index: usize) -> std::ops::Range<usize> {
        let publishers = self.publishers as usize;
        index * publishers..(index + 1) * publishers
    }

    /// One less is to get message `number`.
    #[inline]
    fn release(&mut self, number: u32, now: u64) {
        let Some(flight) = self.flight.get_mut(number.wrapping_sub(self.base) as usize) else { return };
        if self.audience == Audience::Whoever || flight.due == 0 {
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

    /// The first message since a connection came.
    #[cold]
    fn join(&mut self, index: usize, place: usize, number: u32, now: u64) {
        let seen = &mut self.seen[place];
        let missed = (number - seen.next.min(number)) / self.publishers;
        let first_ever = seen.next == 0;
        seen.joined = true;
        self.joined += usize::from(index < self.readers);
        if let Some(news) = &mut self.news
            && !first_ever
        {
            news.push(News::Rejoined { index, now, missed });
        }
    }

    /// A message that is not the next one. `false` when it came before, or is late.
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

impl Sink for Cast {
    fn opened(&mut self, index: usize, now: u64) {
        if let Some(news) = &mut self.news {
            news.push(News::Opened { index, now });
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
                // Nobody waits for what it would have got.
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

/// The sentence for a server that does not do what fan-out needs.
pub(super) fn nobody_heard(waiting: usize, of: usize, url: &str) -> Result<()> {
    Err(format!(
        "{waiting} of {of} connections got no message: {url} must send each text frame to everyone there (for a path that \
         sends frames back, use --mode echo)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::random::Random;

    /// Two readers, one publisher, and the means to hand it any message.
    struct Bed {
        cast: Cast,
        plain: Vec<u8>,
    }

    impl Bed {
        fn new() -> Self {
            let mut random = Random::new(1);
            let mut messages = Messages::new(16, &mut random);
            let mut plain = Vec::new();
            messages.write(0, [0; 4], &mut plain);
            plain.drain(..6);
            Self { cast: Cast::new(messages, 2, 2, 1, Audience::All), plain }
        }

        /// As if `count` messages had been sent.
        fn sent(&mut self, count: u32) {
            for _ in 0..count {
                self.cast.flight.push_back(Flight { since: 0, due: self.cast.alive });
                self.cast.under_way += 1;
                self.cast.next += 1;
            }
        }

        fn comes(&mut self, index: usize, number: u32) {
            let text = format!("{}{number:08x}", String::from_utf8_lossy(&self.plain[..8]));
            self.cast.message(index, text.as_bytes(), 10);
        }
    }

    #[test]
    fn all_in_order_is_no_fault() {
        let mut bed = Bed::new();
        bed.sent(3);
        assert_eq!(bed.cast.waiting(), 2);
        for number in 0..3 {
            bed.comes(0, number);
            bed.comes(1, number);
        }
        bed.cast.settle(false);
        assert_eq!(bed.cast.checks.complaint(), None);
        assert_eq!((bed.cast.figures.deliveries, bed.cast.under_way(), bed.cast.waiting()), (6, 0, 0));
        assert_eq!(bed.cast.figures.last.len(), 3);
    }

    #[test]
    fn what_does_not_come_is_lost() {
        let mut bed = Bed::new();
        bed.sent(4);
        for number in [0, 1, 3] {
            bed.comes(0, number);
        }
        bed.comes(1, 0);
        assert!(!bed.cast.is_settled());
        bed.cast.settle(true);
        assert_eq!(bed.cast.checks.lost, 1);
        bed.cast.settle(false);
        // Number 2 at the first, 1 to 3 at the second.
        assert_eq!((bed.cast.checks.lost, bed.cast.checks.order_errors), (4, 0));
        assert_eq!(bed.cast.under_way(), 3);
    }

    #[test]
    fn what_comes_late_or_twice_is_out_of_order() {
        let mut bed = Bed::new();
        bed.sent(3);
        for number in [0, 2, 1] {
            bed.comes(0, number);
        }
        for number in [0, 1, 2] {
            bed.comes(1, number);
        }
        bed.cast.settle(false);
        assert_eq!((bed.cast.checks.lost, bed.cast.checks.order_errors), (0, 1));
        bed.comes(1, 2);
        assert_eq!(bed.cast.checks.order_errors, 2);
    }

    #[test]
    fn nobody_waits_for_one_that_died() {
        let mut bed = Bed::new();
        bed.sent(2);
        for number in [0, 1] {
            bed.comes(0, number);
        }
        bed.comes(1, 0);
        assert_eq!(bed.cast.under_way(), 1);
        bed.cast.closed(1, "the server closed it");
        assert_eq!((bed.cast.under_way(), bed.cast.checks.dead, bed.cast.waiting()), (0, 1, 0));
        bed.cast.settle(false);
        assert_eq!(bed.cast.checks.lost, 0);
    }

    #[test]
    fn who_was_away_has_missed_and_not_lost() {
        let mut bed = Bed::new();
        bed.cast.news = Some(Vec::new());
        bed.sent(1);
        bed.comes(0, 0);
        bed.comes(1, 0);
        bed.cast.leave(1);
        bed.sent(4);
        (1..5).for_each(|number| bed.comes(0, number));
        bed.comes(1, 4);
        bed.cast.settle(false);
        assert_eq!(bed.cast.checks.complaint(), None);
        let news = bed.cast.news.take().unwrap();
        assert!(matches!(news[..], [News::Rejoined { index: 1, missed: 3, .. }]));
    }
}
