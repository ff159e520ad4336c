//! A node's knowledge of the history of a counter or table, and the decision about which messages
//! to apply.
//!
//! A history consists of an epoch, which is a random id, and the numbered changes in it. A change that
//! directly follows the known state is applied. A message after a gap or of another epoch is never applied.
//! Instead it causes a read of the state, and a read is authoritative. A forged value, from a sender that
//! knows the epoch and number, therefore lasts only until the next change or read.
//!
//! During a read, messages wait. Afterwards they are compared with the result of the read.

use std::str::FromStr as _;

use crate::state::{Epoch, Version};

/// Bytes of messages that may wait during a read. Far more than arrives during a round trip; beyond it the
/// state is read again. 64 reads run at once, so at most 64 MiB wait.
const WAITING: usize = 1 << 20;
/// Cost of a waiting message in addition to its own bytes.
const OVERHEAD: usize = 64;
/// The message published when the history is lost.
const LOST: &[u8] = b"?";

/// A point in a history: an epoch, and how many changes it has had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moment {
    pub(super) epoch: Epoch,
    pub(super) number: u64,
}

/// Something with a history: the values known to a node, and their observers.
pub(super) trait HistoryModel: Send + 'static {
    /// A published change.
    type Change<'a>;
    /// The state returned by a read.
    type State: Send;

    /// Parses a published change; returns `None` for anything else.
    fn parse(payload: &[u8]) -> Option<Self::Change<'_>>;
    /// Returns whether the known state may be the one after this change.
    fn agrees(&self, change: &Self::Change<'_>) -> bool;
    /// Applies a change and notifies the observers.
    fn apply(&mut self, change: Self::Change<'_>, version: Version);
    /// Replaces the state. With `notify`, notifies the observers of the differences.
    fn replace(&mut self, state: Self::State, version: Version, notify: bool);
    /// Returns the state in a few bytes, so that Redis can tell whether it has the same state. Empty if there
    /// is no such form.
    fn digest(&self) -> String;
}

/// Why a message is not applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doubt {
    /// It follows missing changes, belongs to another history, or contradicts the known state.
    Read,
    /// It was not written by this library.
    Foreign,
}

/// The known state, and the messages that wait during a read.
pub(super) struct Known<M: HistoryModel> {
    pub(super) model: M,
    /// The point of the known state; `None` until the first read.
    at: Option<Moment>,
    /// Whether the epoch has changed since the first read. Versions carry the epoch from then on.
    has_turned: bool,
    /// Whether an observer waits for the first state because it found none.
    is_awaited: bool,
    /// Waiting messages, while a read is in progress.
    waiting: Option<WaitingMessages>,
}

/// Messages that wait for the end of a read.
#[derive(Default)]
struct WaitingMessages {
    messages: Vec<Box<[u8]>>,
    bytes: usize,
    /// Whether a message did not fit.
    is_full: bool,
}

/// What the reader knew when the read began.
pub(super) struct Basis {
    pub(super) at: Option<Moment>,
    /// See [`HistoryModel::digest`].
    pub(super) digest: String,
}

impl<M: HistoryModel> Known<M> {
    /// Creates a history of which nothing is known.
    pub(super) fn new(model: M) -> Self {
        Self { model, at: None, has_turned: false, is_awaited: false, waiting: None }
    }

    /// Returns whether the state has ever been read.
    pub(super) fn is_known(&self) -> bool {
        self.at.is_some()
    }

    /// Returns the version of the known state, with its epoch. If nothing is known, returns `None` and
    /// notifies the observers of the first state, which they otherwise do not receive.
    pub(super) fn version_or_await(&mut self) -> Option<Version> {
        self.is_awaited |= self.at.is_none();
        self.at.map(|Moment { epoch, number }| Version { number, epoch: Some(epoch) })
    }

    /// Receives a message.
    pub(super) fn receive(&mut self, payload: &[u8]) -> Result<(), Doubt> {
        let Some(waiting) = &mut self.waiting else { return self.judge(payload) };
        let bytes = waiting.bytes + payload.len() + OVERHEAD;
        if waiting.is_full || bytes > WAITING {
            (waiting.is_full, waiting.messages) = (true, Vec::new());
        } else {
            waiting.messages.push(payload.into());
            waiting.bytes = bytes;
        }
        Ok(())
    }

    /// Applies a message if it is the next change.
    fn judge(&mut self, payload: &[u8]) -> Result<(), Doubt> {
        if payload == LOST {
            return Err(Doubt::Read);
        }
        let (moment, change) = parse(payload).ok_or(Doubt::Foreign)?;
        let change = M::parse(change).ok_or(Doubt::Foreign)?;
        match self.at {
            Some(at) if at.epoch != moment.epoch => Err(Doubt::Read),
            Some(at) if moment.number < at.number => Ok(()),
            // This change led to the known state, unless the values differ.
            Some(at) if moment.number == at.number => {
                if self.model.agrees(&change) {
                    Ok(())
                } else {
                    Err(Doubt::Read)
                }
            }
            Some(at) if moment.number - 1 == at.number => {
                self.at = Some(moment);
                let version = self.observer_version(moment);
                self.model.apply(change, version);
                Ok(())
            }
            Some(_) => Err(Doubt::Read),
            None => Ok(()), // the first read is still pending
        }
    }

    /// Returns the version for observers, with the epoch if a tab must learn it.
    fn observer_version(&self, Moment { epoch, number }: Moment) -> Version {
        Version { number, epoch: self.has_turned.then_some(epoch) }
    }

    /// Begins a read. Messages wait until [`end`](Self::end).
    pub(super) fn begin(&mut self) -> Basis {
        self.waiting = Some(WaitingMessages::default());
        Basis { at: self.at, digest: self.model.digest() }
    }

    /// Accepts the result of a read, which overrides whatever is known. Returns whether the epoch has
    /// changed.
    pub(super) fn take(&mut self, moment: Moment, state: M::State) -> bool {
        let before = self.at.replace(moment);
        let is_other = before.is_some_and(|before| before.epoch != moment.epoch);
        self.has_turned |= is_other;
        let is_awaited = std::mem::take(&mut self.is_awaited);
        let mut version = self.observer_version(moment);
        if is_awaited {
            version.epoch = Some(moment.epoch);
        }
        self.model.replace(state, version, before.is_some() || is_awaited);
        is_other
    }

    /// Ends a read, successful or not, and processes the messages that arrived meanwhile.
    pub(super) fn end(&mut self) -> Result<(), Doubt> {
        let waiting = self.waiting.take().unwrap_or_default();
        let mut outcome = if waiting.is_full { Err(Doubt::Read) } else { Ok(()) };
        for message in waiting.messages {
            let judged = self.judge(&message);
            if outcome != Err(Doubt::Read) && judged.is_err() {
                outcome = judged;
            }
        }
        outcome
    }
}

/// Parses a message: `EPOCH NUMBER CHANGE`. Numbers start at 1.
fn parse(payload: &[u8]) -> Option<(Moment, &[u8])> {
    let mut parts = payload.splitn(3, |byte| *byte == b' ');
    let epoch = Epoch::from_str(std::str::from_utf8(parts.next()?).ok()?).ok()?;
    let number = std::str::from_utf8(parts.next()?).ok()?.parse().ok().filter(|&number| number > 0)?;
    Some((Moment { epoch, number }, parts.next()?))
}

#[cfg(test)]
mod tests;
