//! What a node knows of a counter's or a table's history, and which messages about it are applied.
//!
//! A history is an epoch, which is a random id, and the changes that are counted in it. A change that directly follows
//! the known state is applied. A message after a gap, or of another epoch, is never applied: it is a reason to read the
//! state, and a read is authoritative. So a forged value, from a sender that knows the epoch and number, lasts until
//! the next change or read.
//!
//! During a read, messages wait. Afterwards they are judged by what was read.

use std::str::FromStr as _;

use crate::state::{Epoch, Version};

/// Bytes of messages that may wait during a read. It is far more than comes during a round trip; beyond it the state is read
/// again. 64 reads run at once, so at most 64 MiB wait.
const WAITING: usize = 1 << 20;
/// What a waiting message costs beside its own bytes.
const OVERHEAD: usize = 64;
/// The message that says that the history is lost.
const LOST: &[u8] = b"?";

/// A moment of a history: after that many changes in that epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moment {
    pub(super) epoch: Epoch,
    pub(super) number: u64,
}

/// What has a history: the values that a node knows, and those who observe them.
pub(super) trait Model: Send + 'static {
    /// A published change.
    type Change<'a>;
    /// The state that a read returns.
    type State: Send;

    /// Reads a published change; none if it is not one.
    fn parse(payload: &[u8]) -> Option<Self::Change<'_>>;
    /// Whether the known state may be the one after this change.
    fn agrees(&self, change: &Self::Change<'_>) -> bool;
    /// Applies a change and notifies the observers.
    fn apply(&mut self, change: Self::Change<'_>, version: Version);
    /// Replaces the state. With `is_news`, notifies the observers of what differs.
    fn replace(&mut self, state: Self::State, version: Version, is_news: bool);
    /// The state in a few bytes, so that Redis can tell whether it has the same; empty if it has no such form.
    fn digest(&self) -> String;
}

/// Why a message is not applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doubt {
    /// Changes are missing before it, it is of another history, or it contradicts what is known.
    Read,
    /// It is not a message of this library.
    Foreign,
}

/// See the module.
pub(super) struct Known<M: Model> {
    pub(super) model: M,
    /// The moment whose state is known; none until the first read.
    at: Option<Moment>,
    /// Whether the epoch has changed since the first read: then versions carry it.
    has_turned: bool,
    /// Whether an observer waits for the first state, without having read it.
    is_awaited: bool,
    /// The messages that wait, while a read is under way.
    waiting: Option<Waiting>,
}

/// See [`Known::waiting`].
#[derive(Default)]
struct Waiting {
    messages: Vec<Box<[u8]>>,
    bytes: usize,
    /// Whether a message did not fit.
    is_full: bool,
}

/// What the reader knew when it began to read.
pub(super) struct Basis {
    pub(super) at: Option<Moment>,
    /// See [`Model::digest`].
    pub(super) digest: String,
}

impl<M: Model> Known<M> {
    /// Nothing known yet.
    pub(super) fn new(model: M) -> Self {
        Self { model, at: None, has_turned: false, is_awaited: false, waiting: None }
    }

    /// Whether the state was ever read.
    pub(super) fn is_known(&self) -> bool {
        self.at.is_some()
    }

    /// The version of the known state, with its epoch. None if nothing is known: then the observers are notified of the
    /// first state, which they otherwise are not.
    pub(super) fn version_or_await(&mut self) -> Option<Version> {
        self.is_awaited |= self.at.is_none();
        self.at.map(|Moment { epoch, number }| Version { number, epoch: Some(epoch) })
    }

    /// Takes a message.
    pub(super) fn hear(&mut self, payload: &[u8]) -> Result<(), Doubt> {
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
            // The one that led to what is known, unless it has led elsewhere.
            Some(at) if moment.number == at.number => {
                if self.model.agrees(&change) {
                    Ok(())
                } else {
                    Err(Doubt::Read)
                }
            }
            Some(at) if moment.number - 1 == at.number => {
                self.at = Some(moment);
                let version = self.news(moment);
                self.model.apply(change, version);
                Ok(())
            }
            Some(_) => Err(Doubt::Read),
            None => Ok(()), // the first read is still to come
        }
    }

    /// The version that observers get: with the epoch if a tab must learn it.
    fn news(&self, Moment { epoch, number }: Moment) -> Version {
        Version { number, epoch: self.has_turned.then_some(epoch) }
    }

    /// A read begins: messages wait until [`end`](Self::end).
    pub(super) fn begin(&mut self) -> Basis {
        self.waiting = Some(Waiting::default());
        Basis { at: self.at, digest: self.model.digest() }
    }

    /// Takes what was read: it is the truth, whatever is known. Returns whether the history is another one than before.
    pub(super) fn take(&mut self, moment: Moment, state: M::State) -> bool {
        let before = self.at.replace(moment);
        let is_other = before.is_some_and(|before| before.epoch != moment.epoch);
        self.has_turned |= is_other;
        let is_awaited = std::mem::take(&mut self.is_awaited);
        let mut version = self.news(moment);
        if is_awaited {
            version.epoch = Some(moment.epoch);
        }
        self.model.replace(state, version, before.is_some() || is_awaited);
        is_other
    }

    /// The read is over, successful or not: judges the messages that came meanwhile.
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

/// A message: `EPOCH NUMBER CHANGE`. Numbers begin with 1.
fn parse(payload: &[u8]) -> Option<(Moment, &[u8])> {
    let mut parts = payload.splitn(3, |byte| *byte == b' ');
    let epoch = Epoch::from_str(std::str::from_utf8(parts.next()?).ok()?).ok()?;
    let number = std::str::from_utf8(parts.next()?).ok()?.parse().ok().filter(|&number| number > 0)?;
    Some((Moment { epoch, number }, parts.next()?))
}

#[cfg(test)]
mod tests;
