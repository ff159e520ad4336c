//! A connection's bounded queue of frames not yet written, and what happens when it is full.
//!
//! Each frame waits under a policy, its room's or its endpoint's, and a frame is dropped under its own policy only: a
//! frame that must not be lost is never dropped in favor of one that may be.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
};

use bytes::{Buf, Bytes};

use super::budget::{PIECE, PieceCharge};
use crate::sync::RandomState;

/// What happens when a message does not fit the outbox of a connection, because its peer reads too slowly. Set for an
/// endpoint, or for a room with [`HubBuilder::rooms`](crate::HubBuilder::rooms).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// Close the connection with 1013 and the reason "slow consumer". It reconnects when it can, and gets the current
    /// state then.
    #[default]
    Disconnect,
    /// Drop the oldest whole messages under this policy until the new message fits, even if the new message is under
    /// another policy. If all waiting messages are under other policies, a new message under this one is dropped
    /// itself. For feeds in which only the newest message counts.
    DropOldest,
    /// A message [with a key](crate::Message::with_key) replaces the waiting message with the same key, whether or not
    /// the outbox is full: a slow tab gets the latest value of a counter, not every earlier one. Keys of different
    /// rooms are distinct. A message that has no key, or still does not fit, closes the connection as
    /// [`Disconnect`](Self::Disconnect) does, so that no client keeps an outdated value without noticing.
    LatestPerKey,
}

/// Identifies frames that replace each other: frames of one room, or pushed to one connection, with the same name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FrameKey {
    /// The room's epoch; 0 for frames pushed to the connection itself.
    pub(crate) scope: u64,
    /// The key set by the application.
    pub(crate) name: Arc<str>,
}

/// A non-blocking writer for the bytes of a connection.
pub(crate) trait Wire {
    /// Writes some of `bytes`, or fails with `WouldBlock`.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// The limits of a connection's outbox, and the policy when it is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OutboxPolicy {
    /// The most bytes that may wait.
    pub(crate) outbox: usize,
    /// What happens when a message would exceed them.
    pub(crate) overflow: Overflow,
    /// The length above which frames are compressed, in bytes, where the connection has negotiated it.
    pub(crate) compress_above: usize,
}

/// Frames that wait for the socket. Exists only while the socket takes no more.
#[derive(Default)]
pub(crate) struct Outbox {
    /// Oldest first, each with its number. The first may be partly written already.
    pieces: VecDeque<(u64, OutboxPiece)>,
    /// Bytes in `pieces`.
    bytes: usize,
    /// Whether the first piece has been partly written, so that it can't be dropped any more.
    begun: bool,
    /// Pieces under [`Overflow::DropOldest`], and bytes in them.
    droppable: (usize, usize),
    /// The number of the next piece.
    next: u64,
    /// By key: the number of the piece that waits.
    keys: HashMap<FrameKey, u64, RandomState>,
}

const _: () = assert!(size_of::<(u64, OutboxPiece)>() <= 72);

/// One or more whole frames that were joined; their bytes are shared by all connections that they wait for.
pub(crate) struct OutboxPiece {
    /// The bytes still to be written.
    pub(crate) bytes: Bytes,
    /// The number of frames.
    pub(crate) frames: u32,
    /// The policy when it does not fit.
    pub(crate) overflow: Overflow,
    /// Later frames with this key replace it. Only a single frame under [`Overflow::LatestPerKey`] has one.
    pub(crate) key: Option<Box<FrameKey>>,
    /// Charges the overhead of the piece to the hub's memory budget. The bytes are charged with their buffer.
    pub(crate) _charge: PieceCharge,
}

/// The outcome of offering frames to an outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// They were queued, and this many older frames were dropped for them.
    Queued { dropped: u32 },
    /// They replaced an older frame with the same key.
    Replaced,
    /// They did not fit and were dropped, because no waiting frame may be dropped for them.
    Dropped,
    /// They did not fit, and neither they nor any waiting frame may be dropped.
    Full,
}

impl Outbox {
    /// Creates an outbox whose first piece is the rest of frames that the socket took in part.
    pub(crate) fn begun_with(rest: OutboxPiece) -> Self {
        let mut outbox = Self { begun: true, ..Self::default() };
        outbox.append(rest);
        outbox
    }

    /// Queues frames within `limit` bytes. An empty outbox accepts even frames larger than that.
    pub(crate) fn offer(&mut self, piece: OutboxPiece, limit: usize) -> Admission {
        let piece = match self.replace(piece, limit) {
            Ok(()) => return Admission::Replaced,
            Err(piece) => piece,
        };
        let len = piece.bytes.len();
        if self.fits(len, limit) {
            self.append(piece);
            return Admission::Queued { dropped: 0 };
        }
        let is_droppable = piece.overflow == Overflow::DropOldest;
        let dropped = self.make_space(len, limit, is_droppable);
        let may_exceed = is_droppable && self.pieces.len() <= usize::from(self.begun);
        if self.fits(len, limit) || may_exceed {
            self.append(piece);
            return Admission::Queued { dropped };
        }
        // Only frames that may not be lost are left.
        debug_assert_eq!(dropped, 0, "frames were dropped although the new one did not fit");
        if is_droppable { Admission::Dropped } else { Admission::Full }
    }

    /// Queues frames whatever the limit, such as a close frame.
    pub(crate) fn append(&mut self, piece: OutboxPiece) {
        self.bytes += piece.bytes.len();
        if piece.overflow == Overflow::DropOldest {
            self.droppable.0 += 1;
            self.droppable.1 += piece.bytes.len();
        }
        if let Some(key) = &piece.key {
            self.keys.insert((**key).clone(), self.next);
        }
        self.pieces.push_back((self.next, piece));
        self.next += 1;
    }

    /// Returns whether `len` more bytes fit; always true when nothing waits.
    pub(crate) fn fits(&self, len: usize, limit: usize) -> bool {
        self.pieces.is_empty() || self.cost() + PIECE + len <= limit
    }

    /// Forgets the keys of this scope: no later frame replaces one that waits now.
    pub(crate) fn forget_keys(&mut self, scope: u64) {
        self.keys.retain(|key, _| key.scope != scope);
    }

    /// Returns how many more bytes fit. An empty outbox has space for its limit, and accepts a single longer frame.
    pub(crate) fn space(&self, limit: usize) -> usize {
        if self.pieces.is_empty() { limit } else { limit.saturating_sub(self.cost() + PIECE) }
    }

    /// Drops every piece that is still wholly unwritten. Returns the number of frames dropped.
    pub(crate) fn discard(&mut self) -> u32 {
        let mut dropped = 0;
        while self.pieces.len() > usize::from(self.begun) {
            dropped += self.remove(self.pieces.len() - 1);
        }
        dropped
    }

    /// Drops all pieces under [`Overflow::DropOldest`] that are wholly unwritten. Returns the number of frames
    /// dropped, and whether any other unwritten piece is left.
    pub(crate) fn discard_droppable(&mut self) -> (u32, bool) {
        let mut dropped = 0;
        let (mut index, begun) = (0, usize::from(self.begun));
        self.pieces.retain(|(_, piece)| {
            let is_kept = index < begun || piece.overflow != Overflow::DropOldest;
            index += 1;
            if !is_kept {
                dropped += piece.frames;
                self.bytes -= piece.bytes.len();
                self.droppable.0 -= 1;
                self.droppable.1 -= piece.bytes.len();
            }
            is_kept
        });
        (dropped, self.pieces.len() > begun)
    }

    /// Returns the bytes that count against the limit. A single piece counts as its bytes, so that it can meet a
    /// limit exactly.
    pub(crate) fn cost(&self) -> usize {
        self.bytes + self.pieces.len().saturating_sub(1) * PIECE
    }

    /// Returns the bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes until the socket takes no more. Returns whether everything has been written.
    pub(crate) fn flush(&mut self, wire: &impl Wire) -> io::Result<bool> {
        while let Some((_, piece)) = self.pieces.front_mut() {
            match wire.write(&piece.bytes) {
                Ok(n) if n == piece.bytes.len() => {
                    self.begun = false;
                    self.remove(0);
                }
                Ok(n) => {
                    self.bytes -= n;
                    if piece.overflow == Overflow::DropOldest {
                        self.droppable.1 -= n;
                    }
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

    /// Replaces the waiting frame that has the same key. Returns the new frame if there is none, if the old one is half
    /// written, or if there is no space for the difference.
    fn replace(&mut self, piece: OutboxPiece, limit: usize) -> Result<(), OutboxPiece> {
        let waiting = piece.key.as_ref().and_then(|key| self.keys.get(&**key));
        let index = waiting.and_then(|number| self.pieces.binary_search_by_key(number, |(n, _)| *n).ok());
        let Some(index) = index.filter(|&index| index > 0 || !self.begun) else { return Err(piece) };
        let pieces = self.pieces.len();
        let place = &mut self.pieces[index].1;
        let bytes = self.bytes - place.bytes.len() + piece.bytes.len();
        let grows = piece.bytes.len() > place.bytes.len();
        if grows && pieces > 1 && bytes + (pieces - 1) * PIECE > limit {
            return Err(piece);
        }
        *place = piece;
        self.bytes = bytes;
        Ok(())
    }

    /// Drops the oldest droppable pieces until `len` more bytes fit; none if the bytes would not fit even then.
    fn make_space(&mut self, len: usize, limit: usize, may_exceed: bool) -> u32 {
        let (mut count, mut bytes) = (self.pieces.len() - self.droppable.0, self.bytes - self.droppable.1);
        if let Some((_, first)) = self.pieces.front()
            && self.begun
            && first.overflow == Overflow::DropOldest
        {
            (count, bytes) = (count + 1, bytes + first.bytes.len());
        }
        if (count > usize::from(self.begun) || !may_exceed) && bytes + count * PIECE + len > limit {
            return 0;
        }
        let mut dropped = 0;
        while !self.fits(len, limit)
            && let Some(oldest) = self.oldest_droppable()
        {
            dropped += self.remove(oldest);
        }
        dropped
    }

    /// Returns the index of the oldest piece that may be dropped for newer ones.
    fn oldest_droppable(&self) -> Option<usize> {
        let begun = usize::from(self.begun);
        if self.droppable.0 == 0 {
            return None;
        }
        let mut rest = self.pieces.iter().skip(begun);
        rest.position(|(_, piece)| piece.overflow == Overflow::DropOldest).map(|index| index + begun)
    }

    /// Removes a piece. Returns its number of frames.
    fn remove(&mut self, index: usize) -> u32 {
        let Some((number, piece)) = self.pieces.remove(index) else { return 0 };
        self.bytes -= piece.bytes.len();
        if piece.overflow == Overflow::DropOldest {
            self.droppable.0 -= 1;
            self.droppable.1 -= piece.bytes.len();
        }
        if let Some(key) = &piece.key
            && self.keys.get(&**key) == Some(&number)
        {
            self.keys.remove(&**key);
        }
        piece.frames
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::engine::budget::MemoryBudget;

    /// A socket that takes `room` more bytes.
    #[derive(Default)]
    struct NarrowSocket {
        room: Cell<usize>,
        written: RefCell<Vec<u8>>,
    }

    impl Wire for NarrowSocket {
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

    fn piece(bytes: impl Into<Bytes>, overflow: Overflow) -> OutboxPiece {
        let charge = Arc::new(MemoryBudget::new(LIMIT, 1)).charge_piece();
        OutboxPiece { bytes: bytes.into(), frames: 1, overflow, key: None, _charge: charge }
    }

    fn offer(outbox: &mut Outbox, text: &'static str, overflow: Overflow) -> Admission {
        outbox.offer(piece(text, overflow), LIMIT)
    }

    fn offer_keyed(outbox: &mut Outbox, key: &str, text: &'static str) -> Admission {
        let key = Some(Box::new(FrameKey { scope: 1, name: key.into() }));
        outbox.offer(OutboxPiece { key, ..piece(text, Overflow::LatestPerKey) }, 8 + 3 * PIECE)
    }

    /// Returns all waiting bytes as text.
    fn written(outbox: &mut Outbox) -> String {
        let wire = NarrowSocket::default();
        wire.room.set(usize::MAX);
        assert!(outbox.flush(&wire).unwrap());
        assert_eq!((outbox.bytes(), outbox.droppable), (0, (0, 0)));
        assert!(outbox.keys.is_empty());
        String::from_utf8(wire.written.take()).unwrap()
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
        let admitted = outbox.offer(piece(large, Overflow::Disconnect), LIMIT);
        assert_eq!(admitted, Admission::Queued { dropped: 0 });
        assert_eq!(offer(&mut outbox, "0", Overflow::Disconnect), Admission::Full);
    }

    #[test]
    fn drop_oldest_keeps_a_frame_that_is_half_written() {
        let mut outbox = Outbox::begun_with(piece("cd", Overflow::DropOldest));
        assert_eq!(offer(&mut outbox, "efghij", Overflow::DropOldest), Admission::Queued { dropped: 0 });
        assert_eq!(offer(&mut outbox, "klmn", Overflow::DropOldest), Admission::Queued { dropped: 1 });
        let wire = NarrowSocket::default();
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
        let wire = NarrowSocket::default();
        wire.room.set(1);
        assert!(!outbox.flush(&wire).unwrap());
        assert_eq!(outbox.discard(), 1);
        outbox.append(piece("!", Overflow::Disconnect));
        wire.room.set(100);
        assert!(outbox.flush(&wire).unwrap());
        assert_eq!(*wire.written.borrow(), b"abc!");
    }

    #[test]
    fn a_newer_frame_takes_the_place_of_the_one_with_its_key() {
        let mut outbox = Outbox::default();
        assert_eq!(offer_keyed(&mut outbox, "a", "a1"), Admission::Queued { dropped: 0 });
        assert_eq!(offer_keyed(&mut outbox, "b", "b1"), Admission::Queued { dropped: 0 });
        assert_eq!(offer_keyed(&mut outbox, "a", "a22"), Admission::Replaced);
        assert_eq!(outbox.bytes(), 5);
        let elsewhere = Some(Box::new(FrameKey { scope: 2, name: "a".into() }));
        let other = OutboxPiece { key: elsewhere, ..piece("x", Overflow::LatestPerKey) };
        assert_eq!(outbox.offer(other, LIMIT * 2), Admission::Queued { dropped: 0 });
        assert_eq!(written(&mut outbox), "a22b1x");
        assert_eq!(offer_keyed(&mut outbox, "a", "a3"), Admission::Queued { dropped: 0 });
        assert_eq!(written(&mut outbox), "a3");
    }

    #[test]
    fn nothing_takes_a_place_before_a_barrier() {
        let mut outbox = Outbox::default();
        offer_keyed(&mut outbox, "a", "a1");
        outbox.forget_keys(1);
        assert_eq!(offer_keyed(&mut outbox, "a", "a2"), Admission::Queued { dropped: 0 });
        assert_eq!(offer_keyed(&mut outbox, "a", "a3"), Admission::Replaced);
        assert_eq!(written(&mut outbox), "a1a3");
    }

    #[test]
    fn the_only_frame_that_waits_may_be_replaced_by_a_longer_one() {
        let mut outbox = Outbox::default();
        assert_eq!(offer_keyed(&mut outbox, "a", "a1"), Admission::Queued { dropped: 0 });
        let key = Some(Box::new(FrameKey { scope: 1, name: "a".into() }));
        let long = OutboxPiece { key, ..piece("longer than the limit", Overflow::LatestPerKey) };
        assert_eq!(outbox.offer(long, 10), Admission::Replaced);
        assert_eq!(written(&mut outbox), "longer than the limit");
    }

    #[test]
    fn a_frame_that_is_half_written_is_not_replaced() {
        let key = || Some(Box::new(FrameKey { scope: 1, name: "a".into() }));
        let mut outbox =
            Outbox::begun_with(OutboxPiece { key: key(), ..piece("cd", Overflow::LatestPerKey) });
        assert_eq!(offer_keyed(&mut outbox, "a", "new"), Admission::Queued { dropped: 0 });
        assert_eq!(offer_keyed(&mut outbox, "a", "newer"), Admission::Replaced);
        assert_eq!(written(&mut outbox), "cdnewer");
    }

    #[test]
    fn keyed_frames_that_do_not_fit_are_refused() {
        let mut outbox = Outbox::default();
        for key in ["a", "b", "c", "d"] {
            assert_eq!(offer_keyed(&mut outbox, key, "22"), Admission::Queued { dropped: 0 });
        }
        assert_eq!(offer_keyed(&mut outbox, "e", ""), Admission::Full);
        assert_eq!(offer_keyed(&mut outbox, "c", "333"), Admission::Full, "it has grown");
        assert_eq!(offer_keyed(&mut outbox, "c", "44"), Admission::Replaced);
        assert_eq!(written(&mut outbox), "22224422");
    }

    #[test]
    fn what_may_not_be_lost_is_not_dropped_for_what_may() {
        let mut outbox = Outbox::default();
        assert_eq!(offer(&mut outbox, "1234", Overflow::Disconnect), Admission::Queued { dropped: 0 });
        assert_eq!(offer(&mut outbox, "old", Overflow::DropOldest), Admission::Queued { dropped: 0 });
        assert_eq!(offer(&mut outbox, "new!", Overflow::DropOldest), Admission::Queued { dropped: 1 });
        assert_eq!(offer(&mut outbox, "too long", Overflow::DropOldest), Admission::Dropped);
        assert_eq!(offer(&mut outbox, "too long", Overflow::Disconnect), Admission::Full);
        assert_eq!(offer(&mut outbox, "5678", Overflow::Disconnect), Admission::Queued { dropped: 1 });
        assert_eq!(offer(&mut outbox, "x", Overflow::Disconnect), Admission::Full);
        assert_eq!(outbox.discard_droppable(), (0, true));
        assert_eq!(written(&mut outbox), "12345678");
    }
}
