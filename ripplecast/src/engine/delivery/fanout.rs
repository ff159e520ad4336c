//! The rooms of a shard: their members, the frames that wait in them, and the fan-out that delivers those frames.

use std::{collections::VecDeque, sync::Arc};

use super::{
    memberships::RoomMembership,
    send::Sender,
    slots::{Flags, Slot, Slots},
};
use crate::{
    Message,
    engine::{
        batch::{ENCODINGS, Encoding, Joined, Part, RoomBatch},
        budget::MemoryBudget,
        outbox::Wire,
        position::{RoomSource, Snapshot},
        room::RoomCore,
    },
    id::Local,
};

/// The number of rooms up to which a scan for one member needs no further check.
const FEW_ROOMS: usize = 16;

/// A room's members on this shard, and the frames that wait for them.
struct ShardRoom<W> {
    /// The room; `None` when the place is free.
    shared: Option<Arc<RoomCore<W>>>,
    /// The slots of its members, dense.
    members: Vec<u32>,
    /// The number of members that use each encoding.
    members_by_encoding: [u32; ENCODINGS],
    /// Whether the room is in `ShardRooms::dirty`.
    queued: bool,
    /// Frames pushed since the current fan-out began.
    pending: RoomBatch,
    /// The fan-out in progress.
    fan_out: Option<FanOut>,
}

/// A fan-out of a room in progress.
struct FanOut {
    /// The frames that are being delivered.
    batch: RoomBatch,
    /// Members before this index have been served.
    next: usize,
    /// Members from this index on joined after the fan-out began.
    end: usize,
}

/// The rooms of a shard that have members there.
pub(super) struct ShardRooms<W> {
    rooms: Vec<ShardRoom<W>>,
    /// Free places in `rooms`.
    free_rooms: Vec<u32>,
    /// Rooms that have something to deliver; they take turns.
    dirty: VecDeque<u32>,
    /// The stamp of the latest room push.
    stamp: u64,
    /// Encoded bytes that wait in rooms.
    waiting: usize,
}

impl<W: Wire> ShardRooms<W> {
    /// Creates an empty set of rooms.
    pub(super) fn new() -> Self {
        Self { rooms: Vec::new(), free_rooms: Vec::new(), dirty: VecDeque::new(), stamp: 0, waiting: 0 }
    }

    /// Adds a connection to a room. Frames pushed before do not reach it. A connection that has closed, or is about to,
    /// is removed from the room's member count instead: it has left its other rooms already.
    pub(super) fn join(&mut self, slots: &mut Slots<W>, who: Local, room: &Arc<RoomCore<W>>) {
        if !slots.accepts(who) {
            room.forget(who);
            return;
        }
        let place = self.place(slots.shard(), room);
        let target = slots.get_mut(who.slot);
        if target.memberships().get(place).is_some() {
            return;
        }
        let local = &mut self.rooms[place as usize];
        let index = local.members.len() as u32;
        target.join(RoomMembership::new(place, index, self.stamp));
        if !local.pending.is_empty() {
            target.set_ahead(true);
        }
        local.members_by_encoding[target.flags().encoding() as usize] += 1;
        local.members.push(who.slot);
    }

    /// Removes a connection from a room, after sending it the frames pushed before.
    pub(super) fn leave(&mut self, sender: &mut Sender<W>, who: Local, room: &Arc<RoomCore<W>>) {
        if !sender.slots().is_open(who) {
            return;
        }
        let Some(place) = room.place(usize::from(sender.slots().shard())) else { return };
        self.catch_up(sender, who.slot);
        if let Some(membership) = sender.slots_mut().get_mut(who.slot).leave(place) {
            self.remove_member(sender.slots_mut(), who.slot, membership);
        }
    }

    /// Removes a connection from all rooms, here and in their member counts.
    pub(super) fn leave_all(&mut self, slots: &mut Slots<W>, who: Local) {
        for membership in slots.get_mut(who.slot).leave_all() {
            if let Some(shared) = &self.rooms[membership.room() as usize].shared {
                shared.forget(who);
            }
            self.remove_member(slots, who.slot, membership);
        }
    }

    /// Queues a room's frame for its members on this shard.
    pub(super) fn broadcast(
        &mut self,
        sender: &mut Sender<W>,
        room: &Arc<RoomCore<W>>,
        message: &Message,
        offset: u64,
    ) {
        let Some(place) = room.place(usize::from(sender.slots().shard())) else { return };
        self.stamp += 1;
        let local = &mut self.rooms[place as usize];
        let before = local.pending.bytes();
        for encoding in Encoding::ALL {
            if local.members_by_encoding[encoding as usize] > 0 {
                local.pending.encode(encoding, message, Some(room.position(offset)));
                sender.note_encoded();
            }
        }
        local.pending.mark(self.stamp, message.shared_key().cloned());
        self.waiting += local.pending.bytes() - before;
        if !std::mem::replace(&mut local.queued, true) {
            self.dirty.push_back(place);
        }
    }

    /// Returns the encoded bytes that wait in rooms.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns whether any room has frames to deliver.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Delivers frames that wait in rooms to at most `limit` members. A room that is not done continues after the
    /// others.
    pub(super) fn fan_out(&mut self, sender: &mut Sender<W>, mut limit: usize) {
        while limit > 0 {
            let Some(&place) = self.dirty.front() else { return };
            let room = &mut self.rooms[place as usize];
            let source = room.source();
            let Some(mut fan_out) = room.fan_out.take().or_else(|| room.begin_fan_out(sender.budget()))
            else {
                room.queued = false;
                self.dirty.pop_front();
                self.free_if_unused(sender.slots().shard(), place);
                continue;
            };
            // If only one room waits, only members that are ahead or tapped take the careful path.
            let several = if self.dirty.len() == 1 { 0 } else { Flags::SEVERAL };
            let care = Flags::MUTE | Flags::AHEAD | Flags::TAPPED | several;
            while fan_out.next < fan_out.end && limit > 0 {
                limit -= 1;
                let slot = self.rooms[place as usize].members[fan_out.next];
                let flags = sender.slots().get(slot).flags();
                if flags.has(care) {
                    self.rooms[place as usize].fan_out = Some(fan_out);
                    self.catch_up_during(sender, slot, Some(place));
                    fan_out = self.rooms[place as usize].fan_out.take().expect("stored two lines above");
                } else {
                    sender.send(slot, &fan_out.batch, flags.encoding(), source);
                }
                fan_out.next += 1;
            }
            if fan_out.next < fan_out.end {
                self.rooms[place as usize].fan_out = Some(fan_out);
            } else {
                self.waiting -= fan_out.batch.bytes();
            }
            if limit == 0 {
                self.dirty.rotate_left(1);
            }
        }
    }

    /// Sends a frame to one connection, behind the frames that wait in its rooms.
    pub(super) fn push(
        &mut self,
        sender: &mut Sender<W>,
        who: Local,
        message: &Message,
        of: Option<Snapshot>,
    ) {
        if !sender.slots().accepts(who) {
            return;
        }
        let mut frames = sender.take_scratch();
        self.gather(sender.slots_mut(), who.slot, None, &mut frames);
        let slots = sender.slots();
        let encoding = slots.get(who.slot).flags().encoding();
        frames.push(encoding, message, of, slots.policy(who.slot).compress_above);
        sender.send_joined(who.slot, frames);
    }

    /// Sends encoded frames to one connection, behind the frames that wait in its rooms. Leaves `frames` empty.
    pub(super) fn send_encoded(&mut self, sender: &mut Sender<W>, slot: u32, frames: &mut Joined) {
        if frames.bytes.is_empty() {
            return;
        }
        let target = sender.slots().get(slot);
        if !target.is_open() || target.is_mute() {
            frames.clear();
            return;
        }
        let mut joined = sender.take_scratch();
        self.gather(sender.slots_mut(), slot, None, &mut joined);
        joined.append(frames);
        sender.send_joined(slot, joined);
    }

    /// Sends one connection all frames that wait in its rooms, so that something else may follow.
    pub(super) fn catch_up(&mut self, sender: &mut Sender<W>, slot: u32) {
        self.catch_up_during(sender, slot, None);
    }

    /// Sends one connection the frames that wait in its rooms. `current` is the room whose fan-out has reached it.
    fn catch_up_during(&mut self, sender: &mut Sender<W>, slot: u32, current: Option<u32>) {
        if self.dirty.is_empty() {
            return;
        }
        let target = sender.slots().get(slot);
        if target.is_mute() || self.has_everything_of(target, current) {
            return;
        }
        let mut frames = sender.take_scratch();
        self.gather(sender.slots_mut(), slot, current, &mut frames);
        sender.send_joined(slot, frames);
    }

    /// Returns whether the connection already has all frames of the fan-out of room `current`. A member of many waiting
    /// rooms receives everything at the first of them; without this check, each of the others would search all its rooms
    /// again. With few waiting rooms the search is cheap, and it updates whether the member is still ahead.
    fn has_everything_of(&self, target: &Slot<W>, current: Option<u32>) -> bool {
        let Some(place) = current else { return false };
        if self.dirty.len().min(target.memberships().len()) <= FEW_ROOMS {
            return false;
        }
        let fan_out = self.rooms[place as usize].fan_out.as_ref();
        fan_out
            .zip(target.memberships().get(place))
            .is_some_and(|(fan_out, membership)| fan_out.batch.last() <= membership.seen())
    }

    /// Appends to `out`, in the order of their stamps, all frames that wait in the connection's rooms, and marks them
    /// as seen. With `current`, the fan-out of that room has reached the connection.
    fn gather(&self, slots: &mut Slots<W>, slot: u32, current: Option<u32>, out: &mut Joined) {
        if self.dirty.is_empty() {
            return;
        }
        let (rooms, dirty, stamp, target) = (&self.rooms, &self.dirty, self.stamp, slots.get_mut(slot));
        let encoding = target.flags().encoding();
        // Searches either its rooms or the waiting rooms, whichever are fewer.
        let few_wait = dirty.len() < target.memberships().len();
        // If no other of its rooms waits, leave the frames pushed since the fan-out began to the next one. Otherwise a
        // member that was ahead once would stay ahead for as long as messages keep coming.
        let alone = current.is_some_and(|current| {
            if few_wait {
                !dirty.iter().any(|&place| place != current && target.memberships().get(place).is_some())
            } else {
                !target.memberships().iter().any(|m| m.room() != current && rooms[m.room() as usize].queued)
            }
        });
        let mut parts: Vec<Part<'_>> = Vec::new();
        let mut ahead = false;
        let mut take = |membership: &mut RoomMembership| {
            let room = &rooms[membership.room() as usize];
            if !room.queued {
                return;
            }
            let source = room.source();
            let mut up_to = stamp;
            if let Some(fan_out) = &room.fan_out
                && (fan_out.next..fan_out.end).contains(&membership.index())
            {
                ahead |= current != Some(membership.room());
                fan_out.batch.since(membership.seen(), encoding, source, &mut parts);
                if alone {
                    up_to = fan_out.batch.last();
                }
            }
            if !alone {
                room.pending.since(membership.seen(), encoding, source, &mut parts);
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

    /// Returns the place of a room on this shard. Assigns one if it has none.
    fn place(&mut self, shard: u8, room: &Arc<RoomCore<W>>) -> u32 {
        let shard = usize::from(shard);
        if let Some(place) = room.place(shard) {
            return place;
        }
        let local = ShardRoom {
            shared: Some(room.clone()),
            members: Vec::new(),
            members_by_encoding: [0; ENCODINGS],
            queued: false,
            pending: RoomBatch::default(),
            fan_out: None,
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

    /// Frees the place of a room that has no members and no frames queued.
    fn free_if_unused(&mut self, shard: u8, place: u32) {
        let room = &mut self.rooms[place as usize];
        if !room.members.is_empty() || room.queued {
            return;
        }
        if let Some(shared) = room.shared.take() {
            room.members = Vec::new();
            shared.set_place(usize::from(shard), None);
            self.free_rooms.push(place);
        }
    }

    /// Removes a former member from the dense array. Keeps the array's three parts in order.
    fn remove_member(&mut self, slots: &mut Slots<W>, slot: u32, membership: RoomMembership) {
        let place = membership.room();
        let room = &mut self.rooms[place as usize];
        room.members_by_encoding[slots.get(slot).flags().encoding() as usize] -= 1;
        let mut hole = membership.index();
        let mut fill = |members: &mut Vec<u32>, from: usize, hole: &mut usize| {
            if from != *hole {
                members[*hole] = members[from];
                if let Some(moved) = slots.get_mut(members[*hole]).membership_mut(place) {
                    moved.move_to(*hole);
                }
                *hole = from;
            }
        };
        if let Some(fan_out) = &mut room.fan_out {
            if hole < fan_out.next {
                fan_out.next -= 1;
                fill(&mut room.members, fan_out.next, &mut hole);
            }
            if hole < fan_out.end {
                fan_out.end -= 1;
                fill(&mut room.members, fan_out.end, &mut hole);
            }
        }
        let last = room.members.len() - 1;
        fill(&mut room.members, last, &mut hole);
        room.members.pop();
        if room.members.capacity() > 64 && room.members.len() < room.members.capacity() / 4 {
            room.members.shrink_to(room.members.len() * 2);
        }
        self.free_if_unused(slots.shard(), place);
    }
}

impl<W> ShardRoom<W> {
    /// Returns the description of the room that its frames carry.
    fn source(&self) -> RoomSource {
        self.shared.as_ref().map_or(RoomSource { scope: 0, overflow: None }, |room| room.source())
    }

    /// Begins a fan-out of the pending frames, if there are any.
    fn begin_fan_out(&mut self, budget: &Arc<MemoryBudget>) -> Option<FanOut> {
        if self.pending.is_empty() {
            return None;
        }
        Some(FanOut {
            batch: std::mem::take(&mut self.pending).seal(budget),
            next: 0,
            end: self.members.len(),
        })
    }
}

#[cfg(test)]
mod checks;
