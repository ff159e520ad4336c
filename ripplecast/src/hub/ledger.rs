//! What waits for slow readers of the whole hub, in bytes, and the bound on it.
//!
//! A buffer that many connections wait for is counted once, with its owner, and for as long as any of them holds a part of
//! it: that is the memory it takes. Beyond the bound the shards shed the slowest connections first.

use std::sync::Arc;

use bytes::Bytes;

use super::outbox::PIECE;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes that wait in all outboxes and rooms of a hub.
pub(crate) struct Ledger {
    /// How many there are.
    used: AtomicUsize,
    /// How many there may be.
    limit: usize,
    /// By shard: what is known of its slowest connection.
    slowest: Box<[Slowest]>,
}

/// What the other shards know of the slowest connection of a shard.
#[derive(Debug)]
struct Slowest {
    /// No connection of the shard has more bytes waiting than this.
    bytes: AtomicUsize,
    /// The shard has been told to shed it, and has not begun yet.
    told: AtomicBool,
}

/// A number of bytes in a ledger; they are taken out when it is dropped.
struct Charge {
    ledger: Arc<Ledger>,
    bytes: usize,
}

/// What a piece in an outbox costs beside its bytes, in a ledger; taken out when it is dropped.
pub(crate) struct PieceCharge(Arc<Ledger>);

impl Drop for PieceCharge {
    fn drop(&mut self) {
        self.0.used.fetch_sub(PIECE, Ordering::Relaxed);
    }
}

/// A buffer with its charge.
struct Charged {
    buffer: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Ledger {
    /// Nothing waits, and at most `limit` bytes may.
    pub(crate) fn new(limit: usize, shards: usize) -> Self {
        let slowest = (0..shards)
            .map(|_| Slowest { bytes: AtomicUsize::new(0), told: AtomicBool::new(false) })
            .collect();
        Self { used: AtomicUsize::new(0), limit, slowest }
    }

    /// A shard says how much waits at the most for one connection of it.
    pub(crate) fn set_slowest(&self, shard: u8, bytes: usize) {
        self.slowest[usize::from(shard)].bytes.store(bytes, Ordering::Relaxed);
    }

    /// A shard is to be told to shed; false if it has been and has not begun yet.
    pub(crate) fn tell(&self, shard: usize) -> bool {
        !self.slowest[shard].told.swap(true, Ordering::AcqRel)
    }

    /// A shard begins to shed.
    pub(crate) fn is_told(&self, shard: u8) {
        self.slowest[usize::from(shard)].told.store(false, Ordering::Release);
    }

    /// The shard with the slowest connection of all, if that is slower than `bytes`.
    pub(crate) fn slower_than(&self, bytes: usize) -> Option<usize> {
        let all = self.slowest.iter().map(|slowest| slowest.bytes.load(Ordering::Relaxed));
        all.enumerate()
            .max_by_key(|(_, most)| *most)
            .filter(|(_, most)| *most > bytes)
            .map(|(shard, _)| shard)
    }

    /// Bytes that wait.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether more waits than may.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    /// Whether so little waits that shedding may end: an eighth below the bound, so that it is not begun again at once.
    pub(crate) fn is_eased(&self) -> bool {
        self.used() <= self.limit - self.limit / 8
    }

    /// Enters a number of bytes.
    fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Charge { ledger: self.clone(), bytes }
    }

    /// Enters a piece of an outbox.
    pub(crate) fn charge_piece(self: &Arc<Self>) -> PieceCharge {
        self.used.fetch_add(PIECE, Ordering::Relaxed);
        PieceCharge(self.clone())
    }

    /// Makes a buffer one that may be shared, and enters it for as long as a part of it is held.
    pub(crate) fn share(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        if buffer.is_empty() {
            return Bytes::new();
        }
        let charge = self.charge(buffer.capacity());
        Bytes::from_owner(Charged { buffer, _charge: charge })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(ripplecast_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_shared_buffer_counts_once_until_its_last_part_is_gone() {
        let ledger = Arc::new(Ledger::new(100, 1));
        let whole = ledger.share(Vec::with_capacity(80).tap(b"abcdef"));
        let parts: Vec<_> = (0..6).map(|n| whole.slice(n..=n)).collect();
        drop(whole);
        assert_eq!(ledger.used(), 80);
        assert!(!ledger.is_over());
        let more = ledger.charge(21);
        assert!(ledger.is_over());
        drop(parts);
        assert_eq!(ledger.used(), 21);
        drop(more);
        assert_eq!(ledger.used(), 0);
        assert!(ledger.is_eased());
    }

    trait Tap {
        fn tap(self, bytes: &[u8]) -> Self;
    }

    impl Tap for Vec<u8> {
        fn tap(mut self, bytes: &[u8]) -> Self {
            self.extend_from_slice(bytes);
            self
        }
    }
}
