//! Too much waits on the whole hub: the slowest connections go first, whichever shard they are on.

use super::{Core, Dropped, Fault, Wire};
use crate::limits::READ_BUFFER;

impl<W: Wire> Core<W> {
    /// To be called each turn. When too much waits, sheds as [`Core::shed`] does.
    pub(crate) fn shed_if_over(&mut self) -> Option<usize> {
        // Without a slow connection of its own a shard has nothing to look for, and no reason to pass the word on.
        if self.slowest == 0 || !self.ledger.is_over() {
            return None;
        }
        self.shed()
    }

    /// Sheds the slowest connections of this shard until little enough waits; or until another shard has a slower one, whose
    /// number is returned: it is to be told. What a shard says of its slowest may be out of date, but then it is too much: a
    /// shard that is told in vain says what is true, and the word goes on.
    pub(crate) fn shed(&mut self) -> Option<usize> {
        self.ledger.begins(self.shard);
        let slots = self.slots.iter().enumerate();
        let with_outbox =
            slots.filter_map(|(slot, state)| Some((state.outbox.as_ref()?.cost(), slot as u32)));
        let mut backlogs: Vec<_> = with_outbox.collect();
        backlogs.sort_unstable();
        loop {
            self.slowest = backlogs.last().map_or(0, |(bytes, _)| *bytes);
            self.ledger.set_slowest(self.shard, self.slowest);
            if self.ledger.is_eased() {
                return None;
            }
            if let Some(shard) = self.ledger.slower_than(self.slowest) {
                return self.ledger.tell(shard).then_some(shard);
            }
            let (_, slot) = backlogs.pop()?;
            self.shed_one(slot);
        }
    }

    /// Drops what waits for a connection: as its policies allow, or else all of it, and then it is to be closed.
    fn shed_one(&mut self, slot: u32) {
        let Some(outbox) = &mut self.slots[slot as usize].outbox else { return };
        let (mut dropped, more) = outbox.discard_droppable();
        if more {
            dropped += outbox.discard();
        }
        // A frame that is half written can't be dropped alone. Where it is all there is, or is large and its connection
        // is closed anyway, the socket has to go.
        let fault = if dropped == 0 || (more && outbox.bytes() > READ_BUFFER) {
            self.slots[slot as usize].outbox = None;
            dropped += 1;
            Some(Fault::Cut)
        } else {
            if outbox.bytes() == 0 {
                self.slots[slot as usize].outbox = None;
            }
            more.then_some(Fault::Shed)
        };
        self.note_drop(slot, Dropped::Shed, dropped);
        if let Some(fault) = fault {
            self.fault(slot, fault);
        }
    }
}
