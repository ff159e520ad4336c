//! A connection in the naive model, and the check of what it received.

use super::*;

/// How far a connection has closed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(super) enum ModelPhase {
    Open,
    Closing,
    Detached,
    Released,
}

/// A connection in the naive model.
pub(super) struct Expected {
    pub(super) who: Local,
    pub(super) peer: FakeSocket,
    pub(super) encoding: Encoding,
    pub(super) policy: OutboxPolicy,
    pub(super) phase: ModelPhase,
    pub(super) rooms: Vec<usize>,
    /// All frames for it, in order.
    pub(super) frames: Vec<Vec<u8>>,
    /// The control bytes that the shard appended.
    pub(super) control: Vec<Vec<u8>>,
    /// Whether it ended early, so that it receives only the first of its frames.
    pub(super) cut: bool,
}

impl Expected {
    pub(super) fn lossy(&self) -> bool {
        self.policy.overflow == Overflow::DropOldest
    }

    /// Checks that what it has received so far is what it should. Returns the number of missing frames and control units.
    pub(super) fn check(&self, all_must_be_there: bool) -> usize {
        let written = self.peer.0.written.lock();
        let (units, tail) = units(self.encoding, &written);
        let (mut frames, mut control) = (self.frames.iter(), self.control.iter());
        let mut missing = 0;
        for unit in &units {
            let is_control = self.control.contains(unit);
            let expected = if is_control { &mut control } else { &mut frames };
            if self.lossy() {
                let skipped = expected.position(|other| other == unit);
                missing += skipped.unwrap_or_else(|| panic!("unexpected or repeated: {}", show(unit)));
            } else if is_control && self.cut {
                // A dropped backlog may have contained control bytes.
                assert!(expected.any(|other| other == unit), "out of order: {}", show(unit));
            } else {
                let next = expected.next();
                assert_eq!(next.map(|next| show(next)), Some(show(unit)), "to {:?}", self.who);
            }
        }
        if !tail.is_empty() {
            let begins = |other: &Vec<u8>| other.starts_with(&tail);
            let next = if self.lossy() || self.cut { usize::MAX } else { 1 };
            assert!(
                frames.clone().take(next).any(begins) || control.clone().take(next).any(begins),
                "partly written, but not expected: {}",
                show(&tail)
            );
        }
        if all_must_be_there && !self.cut {
            assert_eq!(tail, b"");
            missing += frames.len() + control.len();
            if self.lossy() {
                assert_eq!(frames.len(), 0, "the newest frames must be kept");
            } else {
                assert_eq!(missing, 0, "missing frames: {:?}", frames.map(|f| show(f)).collect::<Vec<_>>());
            }
        }
        missing
    }
}

pub(super) fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned()
}
