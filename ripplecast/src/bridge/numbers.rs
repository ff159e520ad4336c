//! Each node numbers what it sends on a channel, so that whoever listens finds out what it has missed.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

/// Channels that a sender keeps the numbers of. Beyond that it begins anew for all of them: some 10 MiB.
const CHANNELS: usize = 1 << 16;
/// Senders that a listener keeps the numbers of, for one channel: far more than there are nodes.
const SENDERS: usize = 1024;

/// The number of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Number {
    /// Numbers of different series have nothing to do with each other.
    pub(super) series: u64,
    /// From 1, one more for each message.
    pub(super) number: u64,
}

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
        Self { series: RandomState::new().hash_one(0), last: HashMap::new() }
    }

    /// The next number of a channel.
    pub(super) fn next(&mut self, channel: &Arc<str>) -> Number {
        if self.last.len() >= CHANNELS && !self.last.contains_key(channel) {
            *self = Self::new();
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
            Some(last) if last.series == now.series && now.number <= last.number => {
                self.last.insert(sender, last);
                Told::Again
            }
            Some(last) if last.series == now.series => missed(now.number - last.number - 1),
            // A new series begins at 1, and this listener was there.
            Some(_) => missed(now.number - 1),
            None => Told::Next,
        }
    }
}

/// So many were missed, if any.
fn missed(count: u64) -> Told {
    if count == 0 { Told::Next } else { Told::Missed(count) }
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
        let later = Number { series: a1.series.wrapping_add(1), number: 3 };
        assert_eq!(heard.hear(7, later), Told::Missed(2), "a new series was missed from its beginning");
        assert_eq!(heard.hear(7, Number { number: 0, ..later }), Told::Again);
    }

    #[test]
    fn neither_side_keeps_numbers_without_end() {
        let mut given = Given::new();
        let first = given.next(&"first".into());
        for i in 0..CHANNELS {
            given.next(&format!("{i}").into());
        }
        assert!(given.last.len() <= CHANNELS);
        assert_ne!(
            given.next(&"first".into()).series,
            first.series,
            "the numbers of the former series are forgotten"
        );
        let mut heard = Heard::default();
        for sender in 0..5000 {
            heard.hear(sender, first);
        }
        assert!(heard.last.len() <= SENDERS);
    }
}
