//! Sheds load when the hub's memory budget is exceeded: the connections with the most waiting or unfinished bytes are
//! closed first, on whichever shard they are.

use std::sync::Arc;

use hashbrown::HashMap;

use super::slots::Slots;
use crate::engine::budget::MemoryBudget;

/// Where a connection holds bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum HeldIn {
    /// The frames in its outbox.
    Outbox,
    /// An incoming message.
    Incoming,
}

/// The next step of shedding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ShedStep {
    /// Drop what the connection in this slot holds.
    Drop(u32, HeldIn),
    /// Stop. If another shard has a slower connection, wake that shard to shed it.
    Stop { slower: Option<usize> },
}

/// The bytes that connections of a shard hold, least first.
pub(super) struct Candidates(Vec<(usize, u32, HeldIn)>);

/// Decides when to shed, and whom.
pub(super) struct Shedder {
    /// The number of the shard.
    shard: u8,
    budget: Arc<MemoryBudget>,
    /// By slot: bytes held for an incoming message that is unfinished, or that waits for a callback; few have any.
    incoming: HashMap<u32, usize>,
    /// An upper bound on the bytes that any connection of the shard holds.
    slowest: usize,
}

impl Shedder {
    /// Creates the shedder of a shard whose connections hold nothing.
    pub(super) fn new(shard: u8, budget: Arc<MemoryBudget>) -> Self {
        Self { shard, budget, incoming: HashMap::new(), slowest: 0 }
    }

    /// Returns the hub's memory budget.
    pub(super) fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    /// Sets the bytes that a connection's incoming message holds, until it is complete and handled.
    pub(super) fn set_incoming(&mut self, slot: u32, bytes: usize) {
        let before = if bytes > 0 { self.incoming.insert(slot, bytes) } else { self.incoming.remove(&slot) };
        self.budget.change(before.unwrap_or(0), bytes);
        if self.incoming.is_empty() && before.is_some() {
            self.incoming = HashMap::new(); // gives the memory of a busier time back
        }
        self.note_held(bytes);
    }

    /// Notes that a connection holds `bytes`. Published at once, since another shard may be about to look.
    pub(super) fn note_held(&mut self, bytes: usize) {
        if bytes > self.slowest {
            self.set_slowest(bytes);
        }
    }

    /// Returns whether the shard must shed. A shard whose connections hold nothing neither sheds nor wakes another.
    pub(super) fn is_needed(&self) -> bool {
        self.slowest > 0 && self.budget.is_over()
    }

    /// Begins to shed: ranks the connections by the bytes that they hold.
    pub(super) fn begin<W>(&self, slots: &Slots<W>) -> Candidates {
        self.budget.shedding_began(self.shard);
        let outboxes =
            slots.iter().filter_map(|(slot, state)| Some((state.outbox()?.cost(), slot, HeldIn::Outbox)));
        let incoming = self.incoming.iter().map(|(&slot, &bytes)| (bytes, slot, HeldIn::Incoming));
        let mut candidates: Vec<_> = outboxes.chain(incoming).collect();
        candidates.sort_unstable();
        Candidates(candidates)
    }

    /// Returns the next step: drop what the slowest connection of this shard holds, until the budget has eased or another
    /// shard has a slower connection. A published number may be out of date, but only too high: a shard that is woken
    /// needlessly publishes the true number, and shedding continues elsewhere.
    pub(super) fn next(&mut self, candidates: &mut Candidates) -> ShedStep {
        self.set_slowest(candidates.0.last().map_or(0, |(bytes, ..)| *bytes));
        if self.budget.is_eased() {
            return ShedStep::Stop { slower: None };
        }
        if let Some(shard) = self.budget.slower_than(self.slowest) {
            return ShedStep::Stop { slower: self.budget.ask_to_shed(shard).then_some(shard) };
        }
        match candidates.0.pop() {
            Some((_, slot, held)) => ShedStep::Drop(slot, held),
            None => ShedStep::Stop { slower: None },
        }
    }

    fn set_slowest(&mut self, bytes: usize) {
        self.slowest = bytes;
        self.budget.set_slowest(self.shard, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_dropped_first_until_little_enough_is_held() {
        let mut shedder = Shedder::new(0, Arc::new(MemoryBudget::new(800, 1)));
        for (slot, bytes) in [(0, 300), (1, 500), (2, 400)] {
            shedder.set_incoming(slot, bytes);
        }
        assert!(shedder.is_needed());
        let mut candidates = shedder.begin(&Slots::<()>::new(0));
        assert_eq!(shedder.next(&mut candidates), ShedStep::Drop(1, HeldIn::Incoming));
        shedder.set_incoming(1, 0);
        assert_eq!(shedder.next(&mut candidates), ShedStep::Stop { slower: None });
        assert!(!shedder.is_needed());
    }

    #[test]
    fn the_shard_with_the_slowest_connection_is_woken_once() {
        let budget = Arc::new(MemoryBudget::new(100, 2));
        let [mut one, mut two] = [0, 1].map(|shard| Shedder::new(shard, budget.clone()));
        let slots = Slots::<()>::new(0);
        one.set_incoming(0, 90);
        two.set_incoming(0, 110);
        let mut candidates = one.begin(&slots);
        assert_eq!(one.next(&mut candidates), ShedStep::Stop { slower: Some(1) });
        assert_eq!(one.next(&mut candidates), ShedStep::Stop { slower: None }, "it has been woken already");
        let mut candidates = two.begin(&slots);
        assert_eq!(two.next(&mut candidates), ShedStep::Drop(0, HeldIn::Incoming));
    }

    #[test]
    fn a_shard_whose_connections_hold_nothing_does_not_shed() {
        let budget = Arc::new(MemoryBudget::new(100, 2));
        let mut busy = Shedder::new(0, budget.clone());
        busy.set_incoming(0, 200);
        assert!(busy.is_needed() && !Shedder::new(1, budget).is_needed());
    }
}
