//! A connection in the naive model, and whether it received what it should.

use super::*;

/// How far the end of a connection has come, as the shard would have it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(super) enum ModelPhase {
    Open,
    Closing,
    Detached,
    Released,
}

/// A connection as the naive model has it.
pub(super) struct Expected {
    pub(super) who: Local,
    pub(super) peer: FakeSocket,
    pub(super) encoding: Encoding,
    pub(super) policy: OutboxPolicy,
    pub(super) phase: ModelPhase,
    /// The rooms that it is in.
    pub(super) rooms: Vec<usize>,
    /// All frames for it, in order.
    pub(super) frames: Vec<Vec<u8>>,
    /// What the shard appended.
    pub(super) control: Vec<Vec<u8>>,
    /// Something ended its stream early, so that it gets only the first of its frames.
    pub(super) cut: bool,
}

impl Expected {
    pub(super) fn lossy(&self) -> bool {
        self.policy.overflow == Overflow::DropOldest
    }

    /// What it has received agrees with what it should, so far. How many frames and control units never came.
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
                missing += skipped.unwrap_or_else(|| panic!("not expected (again): {}", show(unit)));
            } else if is_control && self.cut {
                // A backlog that was dropped may have had control bytes in it.
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
                "begun, but not expected: {}",
                show(&tail)
            );
        }
        if all_must_be_there && !self.cut {
            assert_eq!(tail, b"");
            missing += frames.len() + control.len();
            if self.lossy() {
                assert_eq!(frames.len(), 0, "the newest must be kept");
            } else {
                assert_eq!(
                    missing,
                    0,
                    "frames never came: {:?}",
                    frames.map(|f| show(f)).collect::<Vec<_>>()
                );
            }
        }
        missing
    }
}

pub(super) fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned()
}
