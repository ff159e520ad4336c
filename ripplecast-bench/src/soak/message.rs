//! The messages of a run, and what a reader may see of them.

/// Publishers of a life, each with numbers of its own.
pub(super) const PUBLISHERS: usize = 4;
/// What the server tells a connection that is in the room.
pub(super) const JOINED: &str = "joined";
/// Bytes of a mark, and so the shortest message.
pub(super) const MARK: usize = 23;
/// Longest message.
pub(super) const LONGEST: usize = 512;

/// What fills a message up.
const FILLER: [u8; LONGEST] = [b'x'; LONGEST];

/// What tells a message from all others: the server's life, the publisher, the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) life: u32,
    pub(super) publisher: u8,
    pub(super) number: u32,
}

impl Mark {
    /// The message: `@`, the mark and the length in hexadecimal, filler.
    pub(super) fn message(self, size: usize) -> Vec<u8> {
        let Self { life, publisher, number } = self;
        let size = size.clamp(MARK, LONGEST);
        let mut text = format!("@{life:08x}{publisher:02x}{number:08x}{size:04x}").into_bytes();
        text.extend_from_slice(&FILLER[MARK..size]);
        text
    }

    /// Reads a message; `None` if it is not whole, or not as it was sent.
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

/// What is wrong with a message's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misplaced {
    /// So many before it have not come.
    Gap(u32),
    /// It came before, or one after it did.
    Again,
}

/// What one reader has had from each publisher.
#[derive(Clone, Copy, Debug)]
pub(super) struct Track {
    next: [Next; PUBLISHERS],
}

/// The number that comes next from a publisher.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// None has come. What had not been sent when the reader was in the room must come; some before it may.
    AtMost(u32),
    Exactly(u32),
}

impl Track {
    /// For a reader that is in the room when `sent` messages of each publisher have been sent.
    pub(super) fn since(sent: &[u32; PUBLISHERS]) -> Self {
        Self { next: sent.map(Next::AtMost) }
    }

    /// A message has come.
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

    /// How many of those that were `sent` have not come, at the end of what has.
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
    fn messages_come_back_as_they_were() {
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
        assert_eq!(track.take(mark(1, 0)), Ok(()), "each publisher has numbers of its own");
    }

    #[test]
    fn what_comes_twice_or_late_is_found() {
        let mut track = Track::since(&[0; PUBLISHERS]);
        assert_eq!(track.take(mark(2, 0)), Ok(()));
        assert_eq!(track.take(mark(2, 0)), Err(Misplaced::Again));
        assert_eq!(track.take(mark(2, 2)), Err(Misplaced::Gap(1)));
        assert_eq!(track.take(mark(2, 1)), Err(Misplaced::Again));
    }

    #[test]
    fn the_first_after_joining_must_come_and_one_before_it_may() {
        let sent = [10, 10, 10, 10];
        let mut track = Track::since(&sent);
        assert_eq!(track.take(mark(0, 8)), Ok(()), "it was under way");
        assert_eq!(track.take(mark(1, 10)), Ok(()));
        assert_eq!(track.take(mark(2, 11)), Err(Misplaced::Gap(1)));
        assert_eq!(track.take(mark(0, 9)), Ok(()));
    }

    #[test]
    fn what_never_came_is_missing() {
        let mut track = Track::since(&[5, 0, 0, 0]);
        assert_eq!(track.missing(&[5, 0, 0, 0]), 0);
        assert_eq!(track.missing(&[7, 1, 0, 0]), 3, "not one has come");
        assert_eq!(track.take(mark(0, 5)), Ok(()));
        assert_eq!(track.take(mark(1, 0)), Ok(()));
        assert_eq!(track.missing(&[7, 1, 0, 0]), 1);
    }
}
