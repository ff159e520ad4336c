//! Rooms on a shard: who is in them, what they have still to deliver, and the walk that delivers it.

use std::sync::Arc;

use super::{Core, LocalRoom, Walk, memberships::Membership, slots::Flags};
use crate::{
    Frame,
    engine::{
        batch::{Batch, DIALECTS, Dialect, Joined, Part},
        budget::Ledger,
        outbox::Wire,
        position::Source,
        room::RoomCore,
    },
    id::Local,
    limits::SENDS_PER_TURN,
};

/// The number of rooms up to which a scan for one member needs no further check.
const FEW_ROOMS: usize = 16;

impl<W: Wire> Core<W> {
    /// Adds a connection to a room. What was pushed before does not reach it. One that is gone, or is about to go, is
    /// taken out of the room's count instead: it has been taken out of its other rooms already.
    pub(crate) fn join(&mut self, who: Local, room: &Arc<RoomCore<W>>) {
        if !self.is_open(who) || self.is_mute(who.slot) {
            room.forget(who);
            return;
        }
        let place = self.place(room);
        let target = self.slots.get_mut(who.slot);
        if target.memberships().get(place).is_some() {
            return;
        }
        let local = &mut self.rooms[place as usize];
        let index = local.members.len() as u32;
        target.join(Membership::new(place, index, self.stamp));
        if !local.pending.is_empty() {
            target.set_ahead(true);
        }
        local.speakers[target.flags().dialect() as usize] += 1;
        local.members.push(who.slot);
    }

    /// Takes a connection out of a room; what was pushed before reaches it first.
    pub(crate) fn leave(&mut self, who: Local, room: &Arc<RoomCore<W>>) {
        if !self.is_open(who) {
            return;
        }
        let Some(place) = room.place(usize::from(self.slots.shard())) else { return };
        self.catch_up(who.slot);
        self.remove_member(who.slot, place);
    }

    /// Takes a connection out of all rooms, here and where they are counted.
    pub(crate) fn leave_all(&mut self, who: Local) {
        for membership in self.slots.get_mut(who.slot).leave_all() {
            if let Some(shared) = &self.rooms[membership.room() as usize].shared {
                shared.forget(who);
            }
            self.take_out(who.slot, membership);
        }
    }

    /// A room's frame, to be delivered to its members here.
    pub(crate) fn cast(&mut self, room: &Arc<RoomCore<W>>, frame: &Frame, offset: u64) {
        let Some(place) = room.place(usize::from(self.slots.shard())) else { return };
        self.stamp += 1;
        let local = &mut self.rooms[place as usize];
        let before = local.pending.bytes();
        for dialect in Dialect::ALL {
            if local.speakers[dialect as usize] > 0 {
                local.pending.encode(dialect, frame, Some(room.cursor(offset)));
                self.counts.encoded_frames += 1;
            }
        }
        local.pending.mark(self.stamp, frame.shared_key().cloned());
        self.waiting += local.pending.bytes() - before;
        if !std::mem::replace(&mut local.queued, true) {
            self.dirty.push_back(place);
        }
    }

    /// Encoded bytes that wait in rooms.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether a room has something to deliver.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Delivers what waits in rooms: at most [`SENDS_PER_TURN`] visits, then the next room's turn.
    pub(crate) fn walk(&mut self) {
        self.visit(SENDS_PER_TURN);
    }

    /// The same, with at most `budget` visits.
    pub(super) fn visit(&mut self, mut budget: usize) {
        while budget > 0 {
            let Some(&place) = self.dirty.front() else { return };
            let room = &mut self.rooms[place as usize];
            let source = room.source();
            let Some(mut walk) = room.walk.take().or_else(|| room.begin_walk(self.shedder.ledger())) else {
                room.queued = false;
                self.dirty.pop_front();
                self.free_if_unused(place);
                continue;
            };
            // In one room that waits, only those who are ahead or looked into need more than a look at the flags.
            let several = if self.dirty.len() == 1 { 0 } else { Flags::SEVERAL };
            let care = Flags::MUTE | Flags::AHEAD | Flags::TAPPED | several;
            while walk.next < walk.end && budget > 0 {
                budget -= 1;
                let slot = self.rooms[place as usize].members[walk.next];
                let flags = self.slots.get(slot).flags();
                if flags.has(care) {
                    self.rooms[place as usize].walk = Some(walk);
                    self.catch_up_visiting(slot, Some(place));
                    walk = self.rooms[place as usize].walk.take().expect("put there two lines above");
                } else {
                    self.send(slot, &walk.batch, flags.dialect(), source);
                }
                walk.next += 1;
            }
            if walk.next < walk.end {
                self.rooms[place as usize].walk = Some(walk);
            } else {
                self.waiting -= walk.batch.bytes();
            }
            if budget == 0 {
                self.dirty.rotate_left(1);
            }
        }
    }

    /// Whether the connection has had all that the walk of room `visiting` brings, while many rooms of its own may wait as
    /// well: then there is nothing to send yet. A member of many rooms that all wait is sent everything at the first; without
    /// this, each of the others would look at all of them again. Where few can wait, the look is cheap, and is taken to see
    /// whether the member is still ahead.
    pub(super) fn has_had(&self, slot: u32, visiting: Option<u32>) -> bool {
        let (Some(place), target) = (visiting, self.slots.get(slot)) else { return false };
        if self.dirty.len().min(target.memberships().len()) <= FEW_ROOMS {
            return false;
        }
        let walk = self.rooms[place as usize].walk.as_ref();
        walk.zip(target.memberships().get(place))
            .is_some_and(|(walk, membership)| walk.batch.last() <= membership.seen())
    }

    /// Puts together, in the order of their stamps, all frames that the connection's rooms still have for it, and notes
    /// that it has them. With `visiting`, the walk of that room is about to go on to the next member.
    pub(super) fn gather(&mut self, slot: u32, visiting: Option<u32>, out: &mut Joined) {
        if self.dirty.is_empty() {
            return;
        }
        let dialect = self.dialect(slot);
        let stamp = self.stamp;
        let (rooms, dirty, target) = (&self.rooms, &self.dirty, self.slots.get_mut(slot));
        // The rooms of its own that wait are found among its rooms or among those that wait, whichever are fewer.
        let few_wait = dirty.len() < target.memberships().len();
        // Where no other room of its own waits, what came since the walk began is left to the next walk. Otherwise, as
        // long as messages never cease, whoever was ahead once would be so for ever.
        let alone = visiting.is_some_and(|visiting| {
            if few_wait {
                !dirty.iter().any(|&place| place != visiting && target.memberships().get(place).is_some())
            } else {
                !target.memberships().iter().any(|m| m.room() != visiting && rooms[m.room() as usize].queued)
            }
        });
        let mut parts: Vec<Part<'_>> = Vec::new();
        let mut ahead = false;
        let mut take = |membership: &mut Membership| {
            let room = &rooms[membership.room() as usize];
            if !room.queued {
                return;
            }
            let source = room.source();
            let mut up_to = stamp;
            if let Some(walk) = &room.walk {
                if (walk.next..walk.end).contains(&membership.index()) {
                    ahead |= visiting != Some(membership.room());
                    walk.batch.since(membership.seen(), dialect, source, &mut parts);
                    if alone {
                        up_to = walk.batch.last();
                    }
                }
            }
            if !alone {
                room.pending.since(membership.seen(), dialect, source, &mut parts);
            }
            membership.note_seen(up_to);
            ahead |= room.pending.first().is_some_and(|first| first <= membership.seen());
        };
        if few_wait {
            dirty.iter().for_each(|&place| {
                if let Some(membership) = target.membership_mut(place) {
                    take(membership);
                }
            });
        } else {
            target.memberships_mut().for_each(take);
        }
        target.set_ahead(ahead);
        parts.sort_by_key(|part| part.stamp);
        for part in &parts {
            out.bytes.extend_from_slice(part.bytes);
            out.end(part.tag());
        }
    }

    /// The place of a room on this shard; it gets one if it has none.
    pub(super) fn place(&mut self, room: &Arc<RoomCore<W>>) -> u32 {
        let shard = usize::from(self.slots.shard());
        if let Some(place) = room.place(shard) {
            return place;
        }
        let local = LocalRoom {
            shared: Some(room.clone()),
            members: Vec::new(),
            speakers: [0; DIALECTS],
            queued: false,
            pending: Batch::default(),
            walk: None,
        };
        let place = match self.free_rooms.pop() {
            Some(place) => {
                self.rooms[place as usize] = local;
                place
            }
            None => {
                self.rooms.push(local);
                (self.rooms.len() - 1) as u32
            }
        };
        room.set_place(shard, Some(place));
        place
    }

    /// Forgets a room without members that has nothing queued.
    pub(super) fn free_if_unused(&mut self, place: u32) {
        let room = &mut self.rooms[place as usize];
        if !room.members.is_empty() || room.queued {
            return;
        }
        if let Some(shared) = room.shared.take() {
            room.members = Vec::new();
            shared.set_place(usize::from(self.slots.shard()), None);
            self.free_rooms.push(place);
        }
    }

    /// Takes a connection out of a room.
    fn remove_member(&mut self, slot: u32, place: u32) {
        if let Some(membership) = self.slots.get_mut(slot).leave(place) {
            self.take_out(slot, membership);
        }
    }

    /// Takes a former member out of the dense array, keeping its three parts apart.
    fn take_out(&mut self, slot: u32, membership: Membership) {
        let place = membership.room();
        let room = &mut self.rooms[place as usize];
        room.speakers[self.slots.get(slot).flags().dialect() as usize] -= 1;
        let mut hole = membership.index();
        let mut fill = |members: &mut Vec<u32>, from: usize, hole: &mut usize| {
            if from != *hole {
                members[*hole] = members[from];
                if let Some(moved) = self.slots.get_mut(members[*hole]).membership_mut(place) {
                    moved.move_to(*hole);
                }
                *hole = from;
            }
        };
        if let Some(walk) = &mut room.walk {
            if hole < walk.next {
                walk.next -= 1;
                fill(&mut room.members, walk.next, &mut hole);
            }
            if hole < walk.end {
                walk.end -= 1;
                fill(&mut room.members, walk.end, &mut hole);
            }
        }
        let last = room.members.len() - 1;
        fill(&mut room.members, last, &mut hole);
        room.members.pop();
        if room.members.capacity() > 64 && room.members.len() < room.members.capacity() / 4 {
            room.members.shrink_to(room.members.len() * 2);
        }
        self.free_if_unused(place);
    }
}

impl<W> LocalRoom<W> {
    /// What it says of its frames.
    pub(super) fn source(&self) -> Source {
        self.shared.as_ref().map_or(Source { scope: 0, overflow: None }, |room| room.source())
    }

    /// Begins to deliver what is pending, if anything is.
    fn begin_walk(&mut self, ledger: &Arc<Ledger>) -> Option<Walk> {
        if self.pending.is_empty() {
            return None;
        }
        Some(Walk { batch: std::mem::take(&mut self.pending).seal(ledger), next: 0, end: self.members.len() })
    }
}
