//! The memory budget of a hub: the bytes that wait for slow readers or belong to unfinished incoming messages.
//!
//! A buffer shared by many connections counts once, for as long as any of them holds a part of it: that is the memory
//! it takes. Above the limit, the shards shed the slowest connections first.

use std::sync::Arc;

use bytes::Bytes;

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The overhead of a piece in bytes: its place in the queue and on the heap. Counted so that many small pieces, such as
/// unread pongs, are bounded like a few large ones.
pub(crate) const PIECE: usize = 96;

/// Counts the bytes in all outboxes and rooms of a hub and in its unfinished incoming messages.
pub(crate) struct MemoryBudget {
    used: AtomicUsize,
    limit: usize,
    /// By shard.
    slowest: Box<[Slowest]>,
}

/// What the other shards know of the slowest connection of a shard.
#[derive(Debug)]
struct Slowest {
    /// No connection of the shard has more bytes waiting than this.
    bytes: AtomicUsize,
    /// Whether the shard has been asked to shed it and has not begun yet.
    asked: AtomicBool,
}

/// The overhead of one piece in an outbox, counted until this is dropped.
pub(crate) struct PieceCharge(Arc<MemoryBudget>);

impl Drop for PieceCharge {
    fn drop(&mut self) {
        self.0.used.fetch_sub(PIECE, Ordering::Relaxed);
    }
}

/// A buffer that counts until it is dropped.
struct Charged {
    buffer: Vec<u8>,
    budget: Arc<MemoryBudget>,
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.buffer.capacity(), Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl MemoryBudget {
    /// Creates an empty budget of `limit` bytes.
    pub(crate) fn new(limit: usize, shards: usize) -> Self {
        let slowest = (0..shards)
            .map(|_| Slowest { bytes: AtomicUsize::new(0), asked: AtomicBool::new(false) })
            .collect();
        Self { used: AtomicUsize::new(0), limit, slowest }
    }

    /// Publishes the most bytes that any connection of a shard holds.
    pub(crate) fn set_slowest(&self, shard: u8, bytes: usize) {
        self.slowest[usize::from(shard)].bytes.store(bytes, Ordering::Relaxed);
    }

    /// Marks a shard as asked to shed. Returns false if it has already been asked and has not begun yet.
    pub(crate) fn ask_to_shed(&self, shard: usize) -> bool {
        !self.slowest[shard].asked.swap(true, Ordering::AcqRel)
    }

    /// Notes that a shard begins to shed.
    pub(crate) fn shedding_began(&self, shard: u8) {
        self.slowest[usize::from(shard)].asked.store(false, Ordering::Release);
    }

    /// Returns the shard with the slowest connection, if that connection holds more than `bytes`.
    pub(crate) fn slower_than(&self, bytes: usize) -> Option<usize> {
        let all = self.slowest.iter().map(|slowest| slowest.bytes.load(Ordering::Relaxed));
        all.enumerate()
            .max_by_key(|(_, most)| *most)
            .filter(|(_, most)| *most > bytes)
            .map(|(shard, _)| shard)
    }

    /// Returns the bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns whether the limit is exceeded.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    /// Returns whether shedding may end: an eighth below the limit, so that it does not begin again at once.
    pub(crate) fn is_eased(&self) -> bool {
        self.used() <= self.limit - self.limit / 8
    }

    /// Counts the overhead of a piece in an outbox.
    pub(crate) fn charge_piece(self: &Arc<Self>) -> PieceCharge {
        self.used.fetch_add(PIECE, Ordering::Relaxed);
        PieceCharge(self.clone())
    }

    /// Updates the bytes held by one connection's unfinished incoming message.
    pub(crate) fn change(&self, before: usize, now: usize) {
        if now > before {
            self.used.fetch_add(now - before, Ordering::Relaxed);
        } else if now < before {
            self.used.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Makes a buffer shareable. It counts for as long as any part of it is held.
    pub(crate) fn share(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        if buffer.is_empty() {
            return Bytes::new();
        }
        self.used.fetch_add(buffer.capacity(), Ordering::Relaxed);
        Bytes::from_owner(Charged { buffer, budget: self.clone() })
    }
}

#[cfg(all(test, not(ripplecast_loom)))]
mod tests {
    use super::*;

    /// Returns a buffer of that capacity.
    fn buffer(capacity: usize) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(capacity);
        buffer.extend_from_slice(b"abcdef");
        buffer
    }

    #[test]
    fn a_shared_buffer_counts_once_until_its_last_part_is_dropped() {
        let budget = Arc::new(MemoryBudget::new(100, 1));
        let whole = budget.share(buffer(80));
        let parts: Vec<_> = (0..6).map(|n| whole.slice(n..=n)).collect();
        drop(whole);
        assert_eq!(budget.used(), 80);
        assert!(!budget.is_over());
        let piece = budget.charge_piece();
        assert_eq!(budget.used(), 80 + PIECE);
        assert!(budget.is_over() && !budget.is_eased());
        drop(parts);
        assert_eq!(budget.used(), PIECE);
        drop(piece);
        assert_eq!(budget.used(), 0);
        assert!(budget.is_eased());
    }

    #[test]
    fn the_slowest_shard_is_asked_once_until_it_begins() {
        let budget = MemoryBudget::new(100, 3);
        assert_eq!(budget.slower_than(0), None);
        budget.set_slowest(1, 50);
        budget.set_slowest(2, 70);
        assert_eq!((budget.slower_than(60), budget.slower_than(70)), (Some(2), None));
        assert!(budget.ask_to_shed(2) && !budget.ask_to_shed(2));
        budget.shedding_began(2);
        assert!(budget.ask_to_shed(2));
    }
}
