//! One queue in memory: its messages, and the progress of each group. One lock guards all of it, and nothing
//! here waits.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    error::QueueError,
    queue::{
        backend::Redelivery,
        id::MessageId,
        message::{DeadLetter, GroupStatus, QueueStatus},
    },
};

/// Maximum bytes of payload in a queue. Messages may be large, and this is one process's memory.
const BYTES: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Log {
    pub(super) state: Mutex<LogState>,
    /// Wakes those who wait for messages.
    pub(super) changed: Notify,
}

#[derive(Clone)]
pub(super) struct LogEntry {
    pub(super) id: MessageId,
    pub(super) payload: Bytes,
    /// Set on a queue of dead letters.
    pub(super) dead: Option<DeadLetter>,
}

/// A queue's messages and groups.
#[derive(Default)]
pub(super) struct LogState {
    /// Oldest first.
    entries: VecDeque<LogEntry>,
    /// Total size of the payloads.
    bytes: usize,
    /// Number of messages ever published.
    published: u64,
    /// The newest id assigned.
    last: MessageId,
    /// By name. As many as the program names, each created by subscribing.
    groups: BTreeMap<Box<str>, LogGroup>,
}

/// A group's progress in a queue.
#[derive(Default)]
pub(super) struct LogGroup {
    /// Number of subscriptions.
    pub(super) consumers: u64,
    /// The newest message delivered.
    delivered: MessageId,
    /// Messages delivered but not handled.
    pending: BTreeMap<MessageId, Pending>,
    /// Messages of `pending` that no consumer holds.
    free: BTreeSet<MessageId>,
}

impl LogGroup {
    /// Returns whether the group has handled the message.
    fn has_handled(&self, id: MessageId) -> bool {
        id <= self.delivered && !self.pending.contains_key(&id)
    }

    /// Returns whether that consumer holds the message.
    fn holds(&self, consumer: u64, id: MessageId) -> bool {
        !self.free.contains(&id) && self.pending.get(&id).is_some_and(|pending| pending.consumer == consumer)
    }
}

/// A message that was delivered but not handled.
struct Pending {
    deliveries: u32,
    /// The consumer that holds it, or held it last.
    consumer: u64,
}

/// The result of taking messages.
#[derive(Default)]
pub(super) struct TakenMessages {
    /// The messages, each with the number of its deliveries so far.
    pub(super) entries: Vec<(LogEntry, u32)>,
    /// Number of messages due for redelivery that the queue no longer contains.
    pub(super) trimmed: u64,
}

impl LogState {
    /// Returns the number of messages kept.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the group with that name, created if necessary, even after it was removed. A new group starts
    /// with the oldest message.
    pub(super) fn group(&mut self, name: &str) -> &mut LogGroup {
        if !self.groups.contains_key(name) {
            self.groups.insert(name.into(), LogGroup::default());
        }
        self.groups.get_mut(name).expect("the group was just inserted")
    }

    /// Appends a message. Drops handled ones if there is no other space.
    pub(super) fn publish(
        &mut self,
        queue: &str,
        payload: Bytes,
        max_len: usize,
    ) -> Result<MessageId, QueueError> {
        loop {
            let (limit, unit) = match (self.entries.len() >= max_len, self.bytes + payload.len() > BYTES) {
                (false, false) => return Ok(self.append(payload, None)),
                (true, _) => (max_len, "messages"),
                (false, true) => (BYTES, "bytes"),
            };
            let oldest = self.entries.front().map_or(MessageId::default(), |entry| entry.id);
            let behind = self.groups.iter().find(|(_, group)| !group.has_handled(oldest));
            if let (Some(_), _) | (None, true) = (behind, self.groups.is_empty()) {
                let group = behind.map(|(name, _)| name.to_string());
                return Err(QueueError::Full { queue: queue.to_owned(), limit, unit, group });
            }
            self.drop_oldest();
        }
    }

    /// Appends a dead letter, and drops the oldest beyond the limits.
    pub(super) fn bury(&mut self, payload: Bytes, letter: DeadLetter, max_len: usize) {
        while self.entries.len() >= max_len
            || (self.bytes + payload.len() > BYTES && !self.entries.is_empty())
        {
            self.drop_oldest();
        }
        self.append(payload, Some(letter));
    }

    fn append(&mut self, payload: Bytes, dead: Option<DeadLetter>) -> MessageId {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last = self.last.next(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX));
        self.published += 1;
        self.bytes += payload.len();
        self.entries.push_back(LogEntry { id: self.last, payload, dead });
        self.last
    }

    fn drop_oldest(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.payload.len();
        }
    }

    /// Returns the position of the first message after `id`.
    fn position_after(&self, id: MessageId) -> usize {
        self.entries.partition_point(|entry| entry.id <= id)
    }

    /// Returns the message with that id.
    fn find(&self, id: MessageId) -> Option<&LogEntry> {
        let position = self.entries.binary_search_by_key(&id, |entry| entry.id).ok()?;
        self.entries.get(position)
    }

    /// Delivers up to `count` messages to a consumer: first those that others released, then new ones.
    pub(super) fn take(&mut self, group: &str, consumer: u64, count: usize) -> TakenMessages {
        let mut taken = TakenMessages::default();
        while taken.entries.len() < count
            && let Some(id) = self.group(group).free.pop_first()
        {
            let Some(entry) = self.find(id).cloned() else {
                self.group(group).pending.remove(&id);
                taken.trimmed += 1;
                continue;
            };
            if let Some(pending) = self.group(group).pending.get_mut(&id) {
                *pending = Pending { deliveries: pending.deliveries.saturating_add(1), consumer };
                taken.entries.push((entry, pending.deliveries));
            }
        }
        let delivered = self.group(group).delivered;
        let from = self.position_after(delivered);
        let more = count - taken.entries.len();
        let new: Vec<LogEntry> = self.entries.range(from..).take(more).cloned().collect();
        let group = self.group(group);
        for entry in new {
            group.delivered = entry.id;
            group.pending.insert(entry.id, Pending { deliveries: 1, consumer });
            taken.entries.push((entry, 1));
        }
        taken
    }

    /// See [`Consumer::again`](crate::queue::backend::Consumer::again).
    pub(super) fn redeliver(&mut self, group: &str, consumer: u64, id: MessageId) -> Redelivery {
        let kept = self.find(id).is_some();
        let Some(group) = self.groups.get_mut(group) else {
            return if kept { Redelivery::Theirs } else { Redelivery::Gone };
        };
        let held = group.holds(consumer, id);
        match group.pending.get_mut(&id) {
            Some(pending) if held && kept => {
                pending.deliveries = pending.deliveries.saturating_add(1);
                Redelivery::Ours { deliveries: pending.deliveries }
            }
            Some(_) if held => {
                group.pending.remove(&id);
                Redelivery::Gone
            }
            None if !kept => Redelivery::Gone,
            _ => Redelivery::Theirs,
        }
    }

    /// Marks the message as handled.
    pub(super) fn acknowledge(&mut self, group: &str, id: MessageId) {
        if let Some(group) = self.groups.get_mut(group) {
            group.pending.remove(&id);
            group.free.remove(&id);
        }
    }

    /// Returns whether only that consumer can still handle the message: it holds it, or the queue has lost
    /// it.
    pub(super) fn is_last_chance(&self, group: &str, consumer: u64, id: MessageId) -> bool {
        let kept = self.find(id).is_some();
        let Some(group) = self.groups.get(group) else { return !kept };
        group.holds(consumer, id) || (!kept && !group.pending.contains_key(&id))
    }

    /// Releases a message that the consumer holds. A delivery that no handler saw does not count.
    pub(super) fn release(&mut self, group: &str, consumer: u64, id: MessageId, seen: bool) {
        let Some(group) = self.groups.get_mut(group) else { return };
        if group.holds(consumer, id)
            && let Some(pending) = group.pending.get_mut(&id)
        {
            pending.deliveries -= u32::from(!seen);
            group.free.insert(id);
        }
    }

    /// Removes the consumer and releases whatever it holds.
    pub(super) fn leave(&mut self, group: &str, consumer: u64) {
        let Some(group) = self.groups.get_mut(group) else { return };
        group.consumers = group.consumers.saturating_sub(1);
        let held = group.pending.iter().filter(|(_, pending)| pending.consumer == consumer);
        group.free.extend(held.map(|(id, _)| *id));
    }

    /// Removes a group and returns whether it existed.
    pub(super) fn remove_group(&mut self, group: &str) -> bool {
        self.groups.remove(group).is_some()
    }

    /// Removes everything except the newest id, and returns whether there was anything.
    pub(super) fn clear(&mut self) -> bool {
        let existed = self.published > 0 || !self.groups.is_empty();
        *self = Self { last: self.last, ..Self::default() };
        existed
    }

    /// Returns the [`QueueStatus`] without the dead letters.
    pub(super) fn status(&self) -> QueueStatus {
        let of = |name: &str, group: &LogGroup| GroupStatus {
            name: name.to_owned(),
            consumers: group.consumers,
            pending: group.pending.len() as u64,
            lag: Some((self.entries.len() - self.position_after(group.delivered)) as u64),
            delivered: group.delivered,
        };
        QueueStatus {
            length: self.entries.len() as u64,
            published: self.published,
            last: self.last,
            dead: 0,
            groups: self.groups.iter().map(|(name, group)| of(name, group)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes messages for a consumer and returns their delivery counts.
    fn take(state: &mut LogState, consumer: u64) -> Vec<u32> {
        state.take("g", consumer, 10).entries.iter().map(|(_, deliveries)| *deliveries).collect()
    }

    #[test]
    fn a_delivery_counts_only_if_a_handler_saw_it() {
        let mut state = LogState::default();
        let id = state.publish("s", "x".into(), 10).unwrap();
        assert_eq!(take(&mut state, 1), [1]);
        state.release("g", 2, id, true);
        assert_eq!(take(&mut state, 2), [] as [u32; 0], "only the holder can release the message");
        state.release("g", 1, id, false);
        assert_eq!(take(&mut state, 2), [1]);
        state.release("g", 2, id, true);
        assert_eq!(take(&mut state, 1), [2]);
        state.leave("g", 1);
        assert_eq!(take(&mut state, 2), [3]);
    }

    #[test]
    fn the_oldest_dead_letter_is_dropped_for_space() {
        let mut state = LogState::default();
        let letter =
            DeadLetter { id: MessageId::default(), group: "g".into(), reason: "r".into(), deliveries: 1 };
        for payload in ["1", "2", "3"] {
            state.bury(payload.into(), letter.clone(), 2);
        }
        let kept: Vec<_> = state.entries.iter().map(|entry| &entry.payload[..]).collect();
        assert_eq!(kept, [b"2", b"3"]);
        assert_eq!((state.bytes, state.published), (2, 3));
    }

    #[test]
    fn a_group_continues_after_losing_an_unheld_dead_letter() {
        let mut state = LogState::default();
        let letter =
            DeadLetter { id: MessageId::default(), group: "g".into(), reason: "r".into(), deliveries: 1 };
        state.bury("1".into(), letter.clone(), 1);
        assert_eq!(take(&mut state, 1), [1]);
        state.leave("g", 1);
        state.bury("2".into(), letter, 1);
        let taken = state.take("g", 2, 10);
        assert_eq!((taken.trimmed, taken.entries.len()), (1, 1));
        assert_eq!(state.status().groups[0].pending, 1);
    }
}
