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
pub(super) struct SeqNumber {
    /// The epoch. Later epochs are higher. The last number of the previous epoch is unknown.
    pub(super) epoch: u64,
    /// The offset in the epoch: starts at 1 and increases by 1 with each message.
    pub(super) offset: u64,
}

/// The first epoch of a node. A node has a new id each time it starts, so no clock is needed to distinguish
/// its epochs from those of an earlier run.
pub(super) const FIRST_EPOCH: u64 = 1;

/// Assigns the sequence numbers of a node.
pub(super) struct SeqSource {
    epoch: u64,
    /// The last offset, by channel; "" is the channel of broadcasts.
    last: HashMap<Arc<str>, u64>,
}

impl SeqSource {
    /// Starts a new epoch.
    pub(super) fn new() -> Self {
        Self { epoch: FIRST_EPOCH, last: HashMap::new() }
    }

    /// Returns the next sequence number of a channel.
    pub(super) fn next(&mut self, channel: &Arc<str>) -> SeqNumber {
        if self.last.len() >= CHANNELS && !self.last.contains_key(channel) {
            self.epoch += 1;
            self.last.clear();
        }
        let offset = self.last.entry(channel.clone()).or_default();
        *offset += 1;
        SeqNumber { epoch: self.epoch, offset: *offset }
    }
}

/// Tracks the sequence numbers received on one channel.
#[derive(Default)]
pub(super) struct SeqTracker {
    /// The last number, by sender.
    last: HashMap<u64, SeqNumber>,
}

/// What a sequence number reveals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SeqCheck {
    /// It is the next one, or the first received from its sender.
    Next,
    /// That many messages before it were missed.
    Missed(u64),
    /// A new epoch has begun, and that many of its messages were missed. The number missed in the previous
    /// epoch is unknown.
    NewEpoch(u64),
    /// It was received before.
    Repeated,
}

impl SeqTracker {
    /// Records the number of a message.
    pub(super) fn check(&mut self, sender: u64, now: SeqNumber) -> SeqCheck {
        if self.last.len() >= SENDERS && !self.last.contains_key(&sender) {
            self.last.clear();
        }
        match self.last.insert(sender, now) {
            // This includes an earlier epoch, or recordings of two epochs could be replayed alternately.
            Some(last) if now <= last => {
                self.last.insert(sender, last);
                SeqCheck::Repeated
            }
            Some(last) if last.epoch == now.epoch => match now.offset - last.offset - 1 {
                0 => SeqCheck::Next,
                count => SeqCheck::Missed(count),
            },
            // A new epoch starts at 1, and this receiver was subscribed.
            Some(_) => SeqCheck::NewEpoch(now.offset.saturating_sub(1)),
            None => SeqCheck::Next,
        }
    }
}

/// The last numbers of one sender whose messages may overtake each other.
#[derive(Default)]
pub(super) struct ReplayWindow {
    /// The epoch of the numbers.
    epoch: u64,
    /// The highest offset received.
    highest: u64,
    /// Which of the numbers below it were received. Bit `n % BITS` stands for offset `n`.
    came: [u64; BITS as usize / 64],
}

/// Numbers that a window remembers: more than a node publishes concurrently.
const BITS: u64 = 1024;

impl ReplayWindow {
    /// Records a sequence number and returns whether it is new. Anything older than the window counts as received.
    pub(super) fn accept(&mut self, now: SeqNumber) -> bool {
        if now.epoch > self.epoch {
            *self = Self { epoch: now.epoch, ..Self::default() };
        }
        if now.epoch < self.epoch {
            return false;
        }
        if self.highest.saturating_sub(now.offset) >= BITS || now.offset == 0 {
            return false;
        }
        if now.offset > self.highest {
            let skipped = (now.offset - self.highest - 1).min(BITS);
            (0..skipped).for_each(|back| self.mark(now.offset - 1 - back, false));
            self.highest = now.offset;
            self.mark(now.offset, true);
            return true;
        }
        let is_new = !self.has(now.offset);
        self.mark(now.offset, true);
        is_new
    }

    /// Returns whether an offset within the window was received.
    fn has(&self, offset: u64) -> bool {
        self.came[(offset % BITS / 64) as usize] >> (offset % 64) & 1 == 1
    }

    /// Records whether an offset was received.
    fn mark(&mut self, offset: u64, came: bool) {
        let bits = &mut self.came[(offset % BITS / 64) as usize];
        *bits = *bits & !(1 << (offset % 64)) | u64::from(came) << (offset % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_and_repeats_detected() {
        let (mut source, mut tracker) = (SeqSource::new(), SeqTracker::default());
        let mut next = |channel: &str| source.next(&channel.into());
        let (a1, b1, a2, a3, a4) = (next("a"), next("b"), next("a"), next("a"), next("a"));
        assert_eq!((a1.offset, b1.offset, a2.offset), (1, 1, 2));
        assert_eq!(tracker.check(7, a1), SeqCheck::Next);
        assert_eq!(tracker.check(8, a3), SeqCheck::Next, "the first message of another sender");
        assert_eq!(tracker.check(7, a4), SeqCheck::Missed(2));
        assert_eq!(tracker.check(7, a4), SeqCheck::Repeated);
        assert_eq!(tracker.check(7, a2), SeqCheck::Repeated);
        let later = SeqNumber { epoch: a1.epoch + 1, offset: 3 };
        assert_eq!(tracker.check(7, later), SeqCheck::NewEpoch(2), "the start of a new epoch was missed");
        assert_eq!(tracker.check(7, SeqNumber { offset: 0, ..later }), SeqCheck::Repeated);
        assert_eq!(
            tracker.check(7, SeqNumber { offset: 5, ..a4 }),
            SeqCheck::Repeated,
            "its former epoch has ended"
        );
        let nonsense = SeqNumber { epoch: later.epoch + 1, offset: 0 };
        assert_eq!(
            tracker.check(7, nonsense),
            SeqCheck::NewEpoch(0),
            "numbers that no sender assigns are harmless"
        );
        assert_eq!(tracker.check(7, later), SeqCheck::Repeated);
    }

    #[test]
    fn a_window_accepts_each_offset_once() {
        let mut window = ReplayWindow::default();
        let mut is_new = |offset| window.accept(SeqNumber { epoch: 7, offset });
        assert!(is_new(1) && is_new(3) && is_new(2), "messages may overtake each other");
        assert!(!is_new(1) && !is_new(2) && !is_new(3) && !is_new(0));
        assert!(is_new(3000) && !is_new(3000));
        assert!(is_new(2999) && is_new(3000 - BITS + 1) && !is_new(2999));
        assert!(!is_new(3000 - BITS), "numbers older than the window count as received");
        assert!(is_new(u64::MAX) && !is_new(u64::MAX) && is_new(u64::MAX - 1));
        assert!(window.accept(SeqNumber { epoch: 8, offset: 1 }), "a later epoch starts again");
        assert!(!window.accept(SeqNumber { epoch: 7, offset: 4000 }), "the earlier epoch has ended");
    }

    #[test]
    fn a_window_equals_a_set_of_all_received_numbers() {
        let (mut window, mut all, mut state) =
            (ReplayWindow::default(), std::collections::HashSet::new(), 1_u64);
        let mut highest = 0_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let offset = (highest + 40).saturating_sub(state >> 33 & 1023).max(1);
            let expected = offset + BITS > highest && all.insert(offset);
            assert_eq!(window.accept(SeqNumber { epoch: 1, offset }), expected, "{offset} below {highest}");
            highest = highest.max(offset);
        }
    }

    #[test]
    fn both_sides_limit_the_numbers_they_keep() {
        let mut source = SeqSource::new();
        let first = source.next(&"first".into());
        for i in 0..CHANNELS {
            source.next(&format!("{i}").into());
        }
        assert!(source.last.len() <= CHANNELS);
        assert!(
            source.next(&"first".into()).epoch > first.epoch,
            "a new epoch begins when the numbers are dropped"
        );
        let mut tracker = SeqTracker::default();
        for sender in 0..5000 {
            tracker.check(sender, first);
        }
        assert!(tracker.last.len() <= SENDERS);
    }
}
