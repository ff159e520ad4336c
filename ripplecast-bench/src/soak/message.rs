//! The messages of a run, and the checks of what a reader receives.

/// The number of publishers in a life, each with its own numbering.
pub(super) const PUBLISHERS: usize = 4;
/// The confirmation to a connection that it is in the room.
pub(super) const JOINED: &str = "joined";
/// The length of a mark in bytes, and so the shortest message.
pub(super) const MARK: usize = 23;
pub(super) const LONGEST: usize = 512;

/// The filler of messages.
const FILLER: [u8; LONGEST] = [b'x'; LONGEST];

/// Identifies a message: the server's life, the publisher and the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) life: u32,
    pub(super) publisher: u8,
    pub(super) number: u32,
}

impl Mark {
    /// Returns the message: `@`, the mark and the length in hexadecimal, filler.
    pub(super) fn message(self, size: usize) -> Vec<u8> {
        let Self { life, publisher, number } = self;
        let size = size.clamp(MARK, LONGEST);
        let mut text = format!("@{life:08x}{publisher:02x}{number:08x}{size:04x}").into_bytes();
        text.extend_from_slice(&FILLER[MARK..size]);
        text
    }

    /// Parses a message. Returns `None` if it is truncated or corrupted.
    pub(super) fn of(message: &[u8]) -> Option<Self> {
        let (mark, filler) = message.split_at_checked(MARK)?;
        let mark = std::str::from_utf8(mark).ok()?.strip_prefix('@')?;
        let hex = |from: usize, to: usize| u32::from_str_radix(mark.get(from..to)?, 16).ok();
        let whole = hex(18, 22)? as usize == message.len() && FILLER.get(MARK..message.len())? == filler;
        let publisher = u8::try_from(hex(8, 10)?).ok()?;
        (whole && usize::from(publisher) < PUBLISHERS).then_some(Self {
            life: hex(0, 8)?,
            publisher,
            number: hex(10, 18)?,
        })
    }
}

/// What is wrong with a message's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misplaced {
    /// This many messages before it are missing.
    Gap(u32),
    /// It is a duplicate, or arrived after a later one.
    Again,
}

/// What one reader has received from each publisher.
#[derive(Clone, Copy, Debug)]
pub(super) struct Track {
    next: [Next; PUBLISHERS],
}

/// The next expected number of a publisher.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// Nothing was received yet. Messages sent after the reader joined must arrive; earlier ones may.
    AtMost(u32),
    Exactly(u32),
}

impl Track {
    /// Creates the state of a reader that joins when `sent` messages of each publisher have been sent.
    pub(super) fn since(sent: &[u32; PUBLISHERS]) -> Self {
        Self { next: sent.map(Next::AtMost) }
    }

    /// Records a message.
    pub(super) fn take(&mut self, mark: Mark) -> Result<(), Misplaced> {
        let next = &mut self.next[usize::from(mark.publisher)];
        let (Next::AtMost(expected) | Next::Exactly(expected)) = *next;
        let begun = matches!(next, Next::Exactly(_));
        if mark.number < expected && begun {
            return Err(Misplaced::Again);
        }
        *next = Next::Exactly(mark.number + 1);
        if mark.number > expected { Err(Misplaced::Gap(mark.number - expected)) } else { Ok(()) }
    }

    /// Returns how many of the `sent` messages are missing after the last one received.
    pub(super) fn missing(&self, sent: &[u32; PUBLISHERS]) -> u32 {
        let missing = |(next, sent): (&Next, &u32)| {
            let (Next::AtMost(next) | Next::Exactly(next)) = *next;
            sent.saturating_sub(next)
        };
        self.next.iter().zip(sent).map(missing).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(publisher: u8, number: u32) -> Mark {
        Mark { life: 7, publisher, number }
    }

    #[test]
    fn messages_round_trip() {
        for (size, number) in [(0, 0), (MARK, 1), (100, 0xDEAD_BEEF), (LONGEST, u32::MAX)] {
            let message = mark(3, number).message(size);
            assert_eq!(message.len(), size.max(MARK));
            assert_eq!(Mark::of(&message), Some(mark(3, number)));
            assert_eq!(Mark::of(&message[..message.len() - 1]), None);
            assert_eq!(Mark::of(&[&message[..], b"x"].concat()), None);
        }
        let mut broken = mark(0, 5).message(100);
        broken[60] = b'y';
        assert_eq!(Mark::of(&broken), None);
        assert_eq!(Mark::of(&Mark { publisher: PUBLISHERS as u8, ..mark(0, 0) }.message(50)), None);
        assert_eq!(Mark::of(b"joined"), None);
    }

    #[test]
    fn a_gap_is_found_and_counted_once() {
        let mut track = Track::since(&[0; PUBLISHERS]);
        assert_eq!(track.take(mark(0, 0)), Ok(()));
        assert_eq!(track.take(mark(0, 3)), Err(Misplaced::Gap(2)));
        assert_eq!(track.take(mark(0, 4)), Ok(()));
        assert_eq!(track.take(mark(1, 0)), Ok(()), "each publisher has its own numbering");
    }

    #[test]
    fn duplicate_and_late_messages_are_found() {
        let mut track = Track::since(&[0; PUBLISHERS]);
        assert_eq!(track.take(mark(2, 0)), Ok(()));
        assert_eq!(track.take(mark(2, 0)), Err(Misplaced::Again));
        assert_eq!(track.take(mark(2, 2)), Err(Misplaced::Gap(1)));
        assert_eq!(track.take(mark(2, 1)), Err(Misplaced::Again));
    }

    #[test]
    fn messages_after_joining_must_arrive_and_earlier_ones_may() {
        let sent = [10, 10, 10, 10];
        let mut track = Track::since(&sent);
        assert_eq!(track.take(mark(0, 8)), Ok(()), "it was in flight");
        assert_eq!(track.take(mark(1, 10)), Ok(()));
        assert_eq!(track.take(mark(2, 11)), Err(Misplaced::Gap(1)));
        assert_eq!(track.take(mark(0, 9)), Ok(()));
    }

    #[test]
    fn undelivered_messages_are_missing() {
        let mut track = Track::since(&[5, 0, 0, 0]);
        assert_eq!(track.missing(&[5, 0, 0, 0]), 0);
        assert_eq!(track.missing(&[7, 1, 0, 0]), 3, "none has arrived");
        assert_eq!(track.take(mark(0, 5)), Ok(()));
        assert_eq!(track.take(mark(1, 0)), Ok(()));
        assert_eq!(track.missing(&[7, 1, 0, 0]), 1);
    }
}
