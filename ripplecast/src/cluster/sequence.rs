//! Sequence numbers of the messages on a channel, from which a receiver detects what it missed.

use std::{collections::HashMap, sync::Arc};

/// Channels for which a sender keeps numbers, about 10 MiB. Beyond that it restarts the numbers of all
/// channels.
const CHANNELS: usize = 1 << 16;
/// Senders for which a receiver keeps numbers, per channel: far more than there are nodes.
const SENDERS: usize = 1024;

/// The sequence number of a message. Those of one sender increase, and a later epoch is above all of an
/// earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Number {
    /// The epoch. Later epochs are higher. The last number of the previous epoch is unknown.
    pub(super) series: u64,
    /// The offset in the epoch: starts at 1 and increases by 1 with each message.
    pub(super) number: u64,
}

/// The first epoch of a node. A node has a new id each time it starts, so no clock is needed to distinguish
/// its epochs from those of an earlier run.
pub(super) const FIRST_SERIES: u64 = 1;

/// Assigns the sequence numbers of a node.
pub(super) struct Given {
    series: u64,
    /// The last number, by channel; "" is the channel of broadcasts.
    last: HashMap<Arc<str>, u64>,
}

impl Given {
    /// Starts a new epoch.
    pub(super) fn new() -> Self {
        Self { series: FIRST_SERIES, last: HashMap::new() }
    }

    /// Returns the next number of a channel.
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

/// Tracks the numbers received on one channel.
#[derive(Default)]
pub(super) struct Heard {
    /// The last number, by sender.
    last: HashMap<u64, Number>,
}

/// What a number reveals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// It is the next one, or the first received from its sender.
    Next,
    /// That many messages before it were missed.
    Missed(u64),
    /// A new epoch has begun, and that many of its messages were missed. The number missed in the previous
    /// epoch is unknown.
    Renewed(u64),
    /// It was received before.
    Again,
}

impl Heard {
    /// Records the number of a message.
    pub(super) fn hear(&mut self, sender: u64, now: Number) -> Told {
        if self.last.len() >= SENDERS && !self.last.contains_key(&sender) {
            self.last.clear();
        }
        match self.last.insert(sender, now) {
            // This includes an earlier epoch, or recordings of two epochs could be replayed alternately.
            Some(last) if now <= last => {
                self.last.insert(sender, last);
                Told::Again
            }
            Some(last) if last.series == now.series => match now.number - last.number - 1 {
                0 => Told::Next,
                count => Told::Missed(count),
            },
            // A new epoch starts at 1, and this receiver was subscribed.
            Some(_) => Told::Renewed(now.number.saturating_sub(1)),
            None => Told::Next,
        }
    }
}

/// The last numbers of one sender whose messages may overtake each other.
#[derive(Default)]
pub(super) struct Window {
    /// The epoch of the numbers.
    series: u64,
    /// The highest number received.
    highest: u64,
    /// Which of the numbers below it were received. Bit `n % BITS` stands for number `n`.
    came: [u64; BITS as usize / 64],
}

/// Numbers that a window remembers: more than a node publishes concurrently.
const BITS: u64 = 1024;

impl Window {
    /// Records a number and returns whether it is new. Anything older than the window counts as received.
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

    /// Returns whether a number within the window was received.
    fn has(&self, number: u64) -> bool {
        self.came[(number % BITS / 64) as usize] >> (number % 64) & 1 == 1
    }

    /// Records whether a number was received.
    fn mark(&mut self, number: u64, came: bool) {
        let word = &mut self.came[(number % BITS / 64) as usize];
        *word = *word & !(1 << (number % 64)) | u64::from(came) << (number % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_and_repeats_detected() {
        let (mut given, mut heard) = (Given::new(), Heard::default());
        let mut numbers = |channel: &str| given.next(&channel.into());
        let (a1, b1, a2, a3, a4) = (numbers("a"), numbers("b"), numbers("a"), numbers("a"), numbers("a"));
        assert_eq!((a1.number, b1.number, a2.number), (1, 1, 2));
        assert_eq!(heard.hear(7, a1), Told::Next);
        assert_eq!(heard.hear(8, a3), Told::Next, "the first message of another sender");
        assert_eq!(heard.hear(7, a4), Told::Missed(2));
        assert_eq!(heard.hear(7, a4), Told::Again);
        assert_eq!(heard.hear(7, a2), Told::Again);
        let later = Number { series: a1.series + 1, number: 3 };
        assert_eq!(heard.hear(7, later), Told::Renewed(2), "the start of a new epoch was missed");
        assert_eq!(heard.hear(7, Number { number: 0, ..later }), Told::Again);
        assert_eq!(heard.hear(7, Number { number: 5, ..a4 }), Told::Again, "its former epoch has ended");
        let nonsense = Number { series: later.series + 1, number: 0 };
        assert_eq!(heard.hear(7, nonsense), Told::Renewed(0), "numbers that no sender assigns are harmless");
        assert_eq!(heard.hear(7, later), Told::Again);
    }

    #[test]
    fn a_window_accepts_each_number_once() {
        let mut window = Window::default();
        let mut is_new = |number| window.is_new(Number { series: 7, number });
        assert!(is_new(1) && is_new(3) && is_new(2), "messages may overtake each other");
        assert!(!is_new(1) && !is_new(2) && !is_new(3) && !is_new(0));
        assert!(is_new(3000) && !is_new(3000));
        assert!(is_new(2999) && is_new(3000 - BITS + 1) && !is_new(2999));
        assert!(!is_new(3000 - BITS), "numbers older than the window count as received");
        assert!(is_new(u64::MAX) && !is_new(u64::MAX) && is_new(u64::MAX - 1));
        assert!(window.is_new(Number { series: 8, number: 1 }), "a later epoch starts again");
        assert!(!window.is_new(Number { series: 7, number: 4000 }), "the earlier epoch has ended");
    }

    #[test]
    fn a_window_equals_a_set_of_all_received_numbers() {
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
    fn both_sides_limit_the_numbers_they_keep() {
        let mut given = Given::new();
        let first = given.next(&"first".into());
        for i in 0..CHANNELS {
            given.next(&format!("{i}").into());
        }
        assert!(given.last.len() <= CHANNELS);
        assert!(
            given.next(&"first".into()).series > first.series,
            "a new epoch begins when the numbers are dropped"
        );
        let mut heard = Heard::default();
        for sender in 0..5000 {
            heard.hear(sender, first);
        }
        assert!(heard.last.len() <= SENDERS);
    }
}
