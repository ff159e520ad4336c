//! Sheds load when too much waits on the whole hub: the connections with the most waiting or unfinished bytes are
//! closed first, whichever shard they are on.

use hashbrown::HashMap;

use super::{Core, Fault};
use crate::{engine::outbox::Wire, limits::READ_BUFFER, outcome::Dropped};

/// What counts against a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    /// What waits in its outbox.
    Outbox,
    /// An incoming message.
    Incoming,
}

impl<W: Wire> Core<W> {
    /// Notes how many bytes an incoming message of the connection holds, until it is complete and handled.
    pub(crate) fn set_incoming(&mut self, slot: u32, bytes: usize) {
        let before = if bytes > 0 { self.incoming.insert(slot, bytes) } else { self.incoming.remove(&slot) };
        self.ledger.change(before.unwrap_or(0), bytes);
        if self.incoming.is_empty() && before.is_some() {
            self.incoming = HashMap::new(); // it keeps no memory of how many there were
        }
        if bytes > self.slowest {
            self.slowest = bytes;
            self.ledger.set_slowest(self.slots.shard(), bytes);
        }
    }

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
        self.ledger.begins(self.slots.shard());
        let slots = self.slots.iter();
        let with_outbox =
            slots.filter_map(|(slot, state)| Some((state.outbox()?.cost(), slot, Held::Outbox)));
        let incoming = self.incoming.iter().map(|(&slot, &bytes)| (bytes, slot, Held::Incoming));
        let mut backlogs: Vec<_> = with_outbox.chain(incoming).collect();
        backlogs.sort_unstable();
        loop {
            self.slowest = backlogs.last().map_or(0, |(bytes, ..)| *bytes);
            self.ledger.set_slowest(self.slots.shard(), self.slowest);
            if self.ledger.is_eased() {
                return None;
            }
            if let Some(shard) = self.ledger.slower_than(self.slowest) {
                return self.ledger.tell(shard).then_some(shard);
            }
            match backlogs.pop()? {
                (_, slot, Held::Outbox) => self.shed_one(slot),
                (_, slot, Held::Incoming) => {
                    self.set_incoming(slot, 0);
                    self.fault(slot, Fault::Unfinished);
                }
            }
        }
    }

    /// Drops what waits for a connection: as its policies allow, or else all of it, and then it is to be closed.
    fn shed_one(&mut self, slot: u32) {
        let Some(outbox) = self.slots.get_mut(slot).outbox_mut() else { return };
        let (mut dropped, more) = outbox.discard_droppable();
        if more {
            dropped += outbox.discard();
        }
        // A frame that is half written can't be dropped alone. Where it is all there is, or is large and its connection
        // is closed anyway, the socket has to go.
        let fault = if dropped == 0 || (more && outbox.bytes() > READ_BUFFER) {
            self.slots.get_mut(slot).drop_outbox();
            dropped += 1;
            Some(Fault::Cut)
        } else {
            if outbox.bytes() == 0 {
                self.slots.get_mut(slot).drop_outbox();
            }
            more.then_some(Fault::Shed)
        };
        self.note_drop(slot, Dropped::Shed, dropped);
        if let Some(fault) = fault {
            self.fault(slot, fault);
        }
    }
}
