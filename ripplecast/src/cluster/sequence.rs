//! Each node numbers what it sends on a channel, so that whoever listens finds out what it has missed.

use std::{collections::HashMap, sync::Arc};

/// Channels that a sender keeps the numbers of. Beyond that it begins anew for all of them: some 10 MiB.
const CHANNELS: usize = 1 << 16;
/// Senders that a listener keeps the numbers of, for one channel: far more than there are nodes.
const SENDERS: usize = 1024;

/// The number of a message. Those of one sender ascend, a later series being above all of an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Number {
    /// Later series are higher. What was the last number of the one before, nobody can tell.
    pub(super) series: u64,
    /// From 1, one more for each message.
    pub(super) number: u64,
}

/// The first series of a node. The id of a node is new each time it starts, so no clock is needed to tell its series from those
/// of the time before.
pub(super) const FIRST_SERIES: u64 = 1;

/// The numbers that a node gives.
pub(super) struct Given {
    /// This series.
    series: u64,
    /// The last number, by channel; "" is that of all connections.
    last: HashMap<Arc<str>, u64>,
}

impl Given {
    /// A new series.
    pub(super) fn new() -> Self {
        Self { series: FIRST_SERIES, last: HashMap::new() }
    }

    /// The next number of a channel.
    pub(super) fn next(&mut self, channel: &Arc<str>) -> Number {
        if self.last.len() >= CHANNELS && !self.last.contains_key(channel) {
            self.series += 1;
            self.last.clear();
        }
        let number = self.last.entry(channel.clone()).or_default();
        *number += 1;
        Number { series: self.series, number: *number }
    }
}

/// What a listener has heard on one channel.
#[derive(Default)]
pub(super) struct Heard {
    /// The last number, by sender.
    last: HashMap<u64, Number>,
}

/// What a number says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// It is the next, or the first that is heard of its sender.
    Next,
    /// So many before it were missed.
    Missed(u64),
    /// A new series has begun, of which so many were missed; how many of the last one, nobody knows.
    Renewed(u64),
    /// It was heard before.
    Again,
}

impl Heard {
    /// A message came.
    pub(super) fn hear(&mut self, sender: u64, now: Number) -> Told {
        if self.last.len() >= SENDERS && !self.last.contains_key(&sender) {
            self.last.clear();
        }
        match self.last.insert(sender, now) {
            // An earlier series too: else recordings of two could be played in turn.
            Some(last) if now <= last => {
                self.last.insert(sender, last);
                Told::Again
            }
            Some(last) if last.series == now.series => match now.number - last.number - 1 {
                0 => Told::Next,
                count => Told::Missed(count),
            },
            // A new series begins at 1, and this listener was there.
            Some(_) => Told::Renewed(now.number.saturating_sub(1)),
            None => Told::Next,
        }
    }
}

/// The last numbers of one sender, of messages that may overtake each other.
#[derive(Default)]
pub(super) struct Window {
    /// Their series.
    series: u64,
    /// The highest that came.
    highest: u64,
    /// Which of those below it came; bit `n % BITS` is that of number `n`.
    came: [u64; BITS as usize / 64],
}

/// Numbers that a window remembers: more than there are publishes under way at once on a node.
const BITS: u64 = 1024;

impl Window {
    /// Whether a number is new; from now on it is not. What is older than the window counts as heard.
    pub(super) fn is_new(&mut self, now: Number) -> bool {
        if now.series > self.series {
            *self = Self { series: now.series, ..Self::default() };
        }
        if now.series < self.series {
            return false;
        }
        if self.highest.saturating_sub(now.number) >= BITS || now.number == 0 {
            return false;
        }
        if now.number > self.highest {
            let skipped = (now.number - self.highest - 1).min(BITS);
            (0..skipped).for_each(|back| self.mark(now.number - 1 - back, false));
            self.highest = now.number;
            self.mark(now.number, true);
            return true;
        }
        let is_new = !self.has(now.number);
        self.mark(now.number, true);
        is_new
    }

    /// Whether a number within the window came.
    fn has(&self, number: u64) -> bool {
        self.came[(number % BITS / 64) as usize] >> (number % 64) & 1 == 1
    }

    /// Notes whether it came.
    fn mark(&mut self, number: u64, came: bool) {
        let word = &mut self.came[(number % BITS / 64) as usize];
        *word = *word & !(1 << (number % 64)) | u64::from(came) << (number % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_and_repeats_are_seen() {
        let (mut given, mut heard) = (Given::new(), Heard::default());
        let mut numbers = |channel: &str| given.next(&channel.into());
        let (a1, b1, a2, a3, a4) = (numbers("a"), numbers("b"), numbers("a"), numbers("a"), numbers("a"));
        assert_eq!((a1.number, b1.number, a2.number), (1, 1, 2));
        assert_eq!(heard.hear(7, a1), Told::Next);
        assert_eq!(heard.hear(8, a3), Told::Next, "another sender, and the first of it");
        assert_eq!(heard.hear(7, a4), Told::Missed(2));
        assert_eq!(heard.hear(7, a4), Told::Again);
        assert_eq!(heard.hear(7, a2), Told::Again);
        let later = Number { series: a1.series + 1, number: 3 };
        assert_eq!(heard.hear(7, later), Told::Renewed(2), "a new series was missed from its beginning");
        assert_eq!(heard.hear(7, Number { number: 0, ..later }), Told::Again);
        assert_eq!(heard.hear(7, Number { number: 5, ..a4 }), Told::Again, "its former series is over");
        let nonsense = Number { series: later.series + 1, number: 0 };
        assert_eq!(heard.hear(7, nonsense), Told::Renewed(0), "nobody numbers so, and nothing breaks");
        assert_eq!(heard.hear(7, later), Told::Again);
    }

    #[test]
    fn a_window_lets_each_number_in_once() {
        let mut window = Window::default();
        let mut is_new = |number| window.is_new(Number { series: 7, number });
        assert!(is_new(1) && is_new(3) && is_new(2), "they may overtake each other");
        assert!(!is_new(1) && !is_new(2) && !is_new(3) && !is_new(0));
        assert!(is_new(3000) && !is_new(3000));
        assert!(is_new(2999) && is_new(3000 - BITS + 1) && !is_new(2999));
        assert!(!is_new(3000 - BITS), "too old to tell");
        assert!(is_new(u64::MAX) && !is_new(u64::MAX) && is_new(u64::MAX - 1));
        assert!(window.is_new(Number { series: 8, number: 1 }), "a later series begins anew");
        assert!(!window.is_new(Number { series: 7, number: 4000 }), "and the earlier one is over");
    }

    #[test]
    fn a_window_is_as_a_set_of_all_that_came() {
        let (mut window, mut all, mut state) = (Window::default(), std::collections::HashSet::new(), 1_u64);
        let mut highest = 0_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = (highest + 40).saturating_sub(state >> 33 & 1023).max(1);
            let expected = number + BITS > highest && all.insert(number);
            assert_eq!(window.is_new(Number { series: 1, number }), expected, "{number} below {highest}");
            highest = highest.max(number);
        }
    }

    #[test]
    fn neither_side_keeps_numbers_without_end() {
        let mut given = Given::new();
        let first = given.next(&"first".into());
        for i in 0..CHANNELS {
            given.next(&format!("{i}").into());
        }
        assert!(given.last.len() <= CHANNELS);
        assert!(
            given.next(&"first".into()).series > first.series,
            "the numbers of the former series are forgotten"
        );
        let mut heard = Heard::default();
        for sender in 0..5000 {
            heard.hear(sender, first);
        }
        assert!(heard.last.len() <= SENDERS);
    }
}
