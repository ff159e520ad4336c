//! A connection's bounded queue of frames not yet written.

use std::{collections::VecDeque, io};

use bytes::{Buf, Bytes};

use super::core::Wire;

/// What happens to a connection whose outbox is full because its peer reads too slowly.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// Close it with 1013 and the reason "slow consumer". It reconnects when it can, and gets the current state then.
    #[default]
    Disconnect,
    /// Drop the oldest frames that wait, whole ones, until the new one fits. For feeds in which only the newest counts.
    DropOldest,
}

/// Frames that wait for the socket. It exists only while the socket takes no more.
#[derive(Default)]
pub(crate) struct Outbox {
    /// What waits, oldest first. The first may be partly written already.
    pieces: VecDeque<Piece>,
    /// Bytes in `pieces`.
    bytes: usize,
    /// Whether some of the first piece has been written, so that it can't be dropped any more.
    begun: bool,
}

/// What a piece costs beside its bytes: its place in the queue and in the heap. Counted, so that many small ones, such as
/// pongs that nobody reads, are bounded like a few large ones.
const PIECE: usize = 64;

/// One or more whole frames that were joined; shared by all connections that they wait for.
struct Piece {
    /// What is still to be written.
    bytes: Bytes,
    /// Number of frames in it.
    frames: u32,
}

/// What became of frames that were offered to an outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// They wait, and this many older frames were dropped for them.
    Queued { dropped: u32 },
    /// There is no space, and nothing may be dropped.
    Full,
}

impl Outbox {
    /// An outbox whose first piece is the unwritten rest of frames that the socket took in part.
    pub(crate) fn begun_with(rest: Bytes, frames: u32) -> Self {
        let mut outbox = Self { begun: true, ..Self::default() };
        outbox.append(rest, frames);
        outbox
    }

    /// Queues frames, within `limit` bytes. What would exceed it even alone is let through an empty outbox.
    pub(crate) fn offer(&mut self, bytes: Bytes, frames: u32, limit: usize, overflow: Overflow) -> Admission {
        let mut dropped = 0;
        if self.cost() > 0 && self.cost() + bytes.len() > limit {
            match overflow {
                Overflow::Disconnect => return Admission::Full,
                Overflow::DropOldest => dropped = self.make_space(bytes.len(), limit),
            }
        }
        self.append(bytes, frames);
        Admission::Queued { dropped }
    }

    /// Queues frames whatever the limit: for a close frame.
    pub(crate) fn append(&mut self, bytes: Bytes, frames: u32) {
        self.bytes += bytes.len();
        self.pieces.push_back(Piece { bytes, frames });
    }

    /// Drops everything of which nothing has been written yet. How many frames that were.
    pub(crate) fn discard(&mut self) -> u32 {
        let mut dropped = 0;
        while self.pieces.len() > usize::from(self.begun) {
            dropped += self.pop_back();
        }
        dropped
    }

    /// What counts against the limit. A single piece counts as its bytes, so that a limit can be met exactly.
    fn cost(&self) -> usize {
        self.bytes + self.pieces.len().saturating_sub(1) * PIECE
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes until the socket takes no more. Whether everything is out.
    pub(crate) fn flush(&mut self, wire: &impl Wire) -> io::Result<bool> {
        while let Some(piece) = self.pieces.front_mut() {
            match wire.write(&piece.bytes) {
                Ok(n) if n == piece.bytes.len() => {
                    self.bytes -= n;
                    self.begun = false;
                    self.pieces.pop_front();
                }
                Ok(n) => {
                    self.bytes -= n;
                    self.begun |= n > 0;
                    piece.bytes.advance(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Drops the oldest pieces until `len` more bytes fit, or nothing more may be dropped.
    fn make_space(&mut self, len: usize, limit: usize) -> u32 {
        let mut dropped = 0;
        while self.cost() + len > limit && self.pieces.len() > usize::from(self.begun) {
            let oldest = usize::from(self.begun);
            let piece = self.pieces.remove(oldest).expect("the loop's condition says that there is one");
            self.bytes -= piece.bytes.len();
            dropped += piece.frames;
        }
        dropped
    }

    /// Drops the newest piece; its number of frames.
    fn pop_back(&mut self) -> u32 {
        let Some(piece) = self.pieces.pop_back() else { return 0 };
        self.bytes -= piece.bytes.len();
        piece.frames
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A socket that takes `room` more bytes.
    #[derive(Default)]
    struct Narrow {
        room: Cell<usize>,
        written: RefCell<Vec<u8>>,
    }

    impl Wire for Narrow {
        fn write(&self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room.get());
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room.set(self.room.get() - n);
            self.written.borrow_mut().extend_from_slice(&bytes[..n]);
            Ok(n)
        }
    }

    /// Eight bytes in two pieces.
    const LIMIT: usize = 8 + PIECE;

    fn offer(outbox: &mut Outbox, text: &'static str, overflow: Overflow) -> Admission {
        outbox.offer(Bytes::from_static(text.as_bytes()), 1, LIMIT, overflow)
    }

    #[test]
    fn disconnect_refuses_what_does_not_fit() {
        let mut outbox = Outbox::default();
        assert_eq!(offer(&mut outbox, "12345", Overflow::Disconnect), Admission::Queued { dropped: 0 });
        assert_eq!(offer(&mut outbox, "678", Overflow::Disconnect), Admission::Queued { dropped: 0 });
        assert_eq!(offer(&mut outbox, "9", Overflow::Disconnect), Admission::Full);
        assert_eq!(outbox.bytes(), 8);
    }

    #[test]
    fn one_frame_larger_than_the_limit_passes_an_empty_outbox() {
        let mut outbox = Outbox::default();
        let large = Bytes::from(vec![b'x'; LIMIT + 1]);
        let admitted = outbox.offer(large, 1, LIMIT, Overflow::Disconnect);
        assert_eq!(admitted, Admission::Queued { dropped: 0 });
        assert_eq!(offer(&mut outbox, "0", Overflow::Disconnect), Admission::Full);
    }

    #[test]
    fn drop_oldest_keeps_a_frame_that_is_half_written() {
        let mut outbox = Outbox::begun_with(Bytes::from_static(b"cd"), 1);
        for text in ["efg", "hij"] {
            assert_eq!(offer(&mut outbox, text, Overflow::DropOldest), Admission::Queued { dropped: 0 });
        }
        assert_eq!(offer(&mut outbox, "klmn", Overflow::DropOldest), Admission::Queued { dropped: 2 });
        let wire = Narrow::default();
        wire.room.set(100);
        assert!(outbox.flush(&wire).unwrap());
        assert_eq!(*wire.written.borrow(), b"cdklmn");
        assert_eq!(outbox.bytes(), 0);
    }

    #[test]
    fn discard_keeps_only_what_is_begun() {
        let mut outbox = Outbox::default();
        for text in ["abc", "def"] {
            offer(&mut outbox, text, Overflow::Disconnect);
        }
        let wire = Narrow::default();
        wire.room.set(1);
        assert!(!outbox.flush(&wire).unwrap());
        assert_eq!(outbox.discard(), 1);
        outbox.append(Bytes::from_static(b"!"), 1);
        wire.room.set(100);
        assert!(outbox.flush(&wire).unwrap());
        assert_eq!(*wire.written.borrow(), b"abc!");
    }
}
