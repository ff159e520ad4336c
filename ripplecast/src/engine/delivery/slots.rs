//! The slab of connections: the socket, the flags, the outbox and the memberships of each.

use std::io;

use super::memberships::{Memberships, RoomMembership};
use crate::{
    engine::{
        batch::Encoding,
        outbox::{Outbox, OutboxPiece, OutboxPolicy, Wire},
    },
    id::Local,
};

/// The properties of a connection that a fan-out checks for each member.
#[derive(Clone, Copy, Default)]
pub(super) struct Flags(u8);

impl Flags {
    /// The two bits that hold the number of its [`Encoding`].
    const ENCODING: u8 = 3;
    /// No more frames are sent to it: a close frame was sent, or it has a fault.
    pub(super) const MUTE: u8 = 4;
    /// Some of the frames that wait in one of its rooms were already sent to it, or must not be sent to it.
    pub(super) const AHEAD: u8 = 8;
    /// It is in several rooms.
    pub(super) const SEVERAL: u8 = 16;
    /// A tap observes it.
    pub(super) const TAPPED: u8 = 32;

    /// Returns whether any flag of the mask is set.
    #[inline]
    pub(super) fn has(self, any_of: u8) -> bool {
        self.0 & any_of != 0
    }

    /// Returns how the connection's frames are encoded.
    #[inline]
    pub(super) fn encoding(self) -> Encoding {
        Encoding::ALL[usize::from(self.0 & Self::ENCODING)]
    }

    /// Returns the flags of a connection that has just been opened.
    fn new(encoding: Encoding) -> Self {
        Self(encoding as u8)
    }

    fn set(&mut self, flag: u8, on: bool) {
        self.0 = if on { self.0 | flag } else { self.0 & !flag };
    }
}

/// The state that delivery keeps for each connection.
pub(super) struct Slot<W> {
    /// The socket; `None` when the slot is free.
    wire: Option<W>,
    /// Distinguishes the connections that use the slot one after the other. Never reused.
    generation: u32,
    flags: Flags,
    /// Index into `Slots::policies`.
    policy: u16,
    /// Frames that the socket has not taken yet.
    outbox: Option<Box<Outbox>>,
    memberships: Memberships,
}

// One cache line per member of a fan-out, as `docs/performance.md` promises.
#[cfg(not(ripplecast_loom))]
const _: () = assert!(size_of::<Slot<std::net::TcpStream>>() <= 64);

impl<W> Slot<W> {
    #[inline]
    pub(super) fn flags(&self) -> Flags {
        self.flags
    }

    /// Returns whether the slot has a socket.
    pub(super) fn is_open(&self) -> bool {
        self.wire.is_some()
    }

    /// Returns whether frames for the connection are discarded: a close frame was sent, or it has a fault.
    pub(super) fn is_mute(&self) -> bool {
        self.flags.has(Flags::MUTE)
    }

    /// Returns the socket, if nothing waits in the outbox: only then may anything be written at once.
    #[inline]
    pub(super) fn ready_wire(&self) -> Option<&W> {
        match self.outbox {
            None => self.wire.as_ref(),
            Some(_) => None,
        }
    }

    /// Returns the outbox, if anything waits in it.
    pub(super) fn outbox(&self) -> Option<&Outbox> {
        self.outbox.as_deref()
    }

    /// Returns the outbox for updates, if anything waits in it.
    pub(super) fn outbox_mut(&mut self) -> Option<&mut Outbox> {
        self.outbox.as_deref_mut()
    }

    /// Returns the bytes that wait in the outbox.
    pub(super) fn backlog(&self) -> usize {
        self.outbox().map_or(0, Outbox::bytes)
    }

    /// Returns the outbox for a frame to be queued.
    pub(super) fn outbox_or_new(&mut self) -> &mut Outbox {
        self.outbox.get_or_insert_default()
    }

    /// Starts an outbox with the rest of what the socket took in part.
    pub(super) fn begin_outbox(&mut self, rest: OutboxPiece) {
        self.outbox = Some(Box::new(Outbox::begun_with(rest)));
    }

    /// Drops the outbox with everything in it.
    pub(super) fn drop_outbox(&mut self) {
        self.outbox = None;
    }

    /// Stops sending: from now on only control bytes reach the connection.
    pub(super) fn mute(&mut self) {
        self.flags.set(Flags::MUTE, true);
    }

    /// Sets whether the member is ahead of one of its rooms.
    pub(super) fn set_ahead(&mut self, on: bool) {
        self.flags.set(Flags::AHEAD, on);
    }

    /// Sets whether a tap observes the connection.
    pub(super) fn set_tapped(&mut self, on: bool) {
        self.flags.set(Flags::TAPPED, on);
    }

    /// Returns the rooms that the connection is in.
    pub(super) fn memberships(&self) -> &Memberships {
        &self.memberships
    }

    /// Returns all memberships, for updates.
    pub(super) fn memberships_mut(&mut self) -> impl Iterator<Item = &mut RoomMembership> {
        self.memberships.iter_mut()
    }

    /// Returns the membership in the room at `place`, for updates.
    pub(super) fn membership_mut(&mut self, place: u32) -> Option<&mut RoomMembership> {
        self.memberships.get_mut(place)
    }

    /// Adds a membership.
    pub(super) fn join(&mut self, membership: RoomMembership) {
        self.memberships.add(membership);
        self.update_several();
    }

    /// Removes the membership in the room at `place`.
    pub(super) fn leave(&mut self, place: u32) -> Option<RoomMembership> {
        let removed = self.memberships.remove(place)?;
        self.update_several();
        Some(removed)
    }

    /// Removes all memberships.
    pub(super) fn leave_all(&mut self) -> impl Iterator<Item = RoomMembership> + use<W> {
        self.flags.set(Flags::SEVERAL, false);
        self.memberships.take()
    }

    fn update_several(&mut self) {
        self.flags.set(Flags::SEVERAL, self.memberships.len() > 1);
    }
}

impl<W: Wire> Slot<W> {
    /// Writes what waits in the outbox, until the socket takes no more.
    ///
    /// # Errors
    /// Fails with the error of the socket.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let (Some(outbox), Some(wire)) = (&mut self.outbox, &self.wire) else { return Ok(()) };
        if outbox.flush(wire)? {
            self.outbox = None;
        }
        Ok(())
    }
}

/// The connections of a shard.
pub(super) struct Slots<W> {
    /// The number of the shard.
    shard: u8,
    slots: Vec<Slot<W>>,
    /// Slots without a connection.
    free: Vec<u32>,
    /// The distinct limits of outboxes; there are few.
    policies: Vec<OutboxPolicy>,
}

impl<W> Slots<W> {
    /// Creates an empty slab.
    pub(super) fn new(shard: u8) -> Self {
        Self { shard, slots: Vec::new(), free: Vec::new(), policies: Vec::new() }
    }

    /// Returns the number of the shard.
    pub(super) fn shard(&self) -> u8 {
        self.shard
    }

    /// Returns the slot of a connection.
    #[inline]
    pub(super) fn get(&self, slot: u32) -> &Slot<W> {
        &self.slots[slot as usize]
    }

    /// Returns the slot of a connection, for updates.
    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Slot<W> {
        &mut self.slots[slot as usize]
    }

    /// Returns all slots with their numbers, including free ones.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Slot<W>)> {
        self.slots.iter().enumerate().map(|(number, slot)| (number as u32, slot))
    }

    /// Returns the id of the next connection to be opened; `None` when all `max_slots` are taken or retired.
    pub(super) fn reserve(&mut self, max_slots: usize) -> Option<Local> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() >= max_slots => return None,
            None => {
                self.slots.push(Slot {
                    wire: None,
                    generation: 1,
                    flags: Flags::default(),
                    policy: 0,
                    outbox: None,
                    memberships: Memberships::new(),
                });
                (self.slots.len() - 1) as u32
            }
        };
        Some(self.id(slot))
    }

    /// Opens a reserved connection.
    pub(super) fn open(&mut self, who: Local, wire: W, encoding: Encoding, policy: OutboxPolicy) {
        let policy = self.policy_index(policy);
        let slot = self.get_mut(who.slot);
        slot.wire = Some(wire);
        slot.flags = Flags::new(encoding);
        slot.policy = policy;
    }

    /// Returns whether the connection has a socket.
    pub(super) fn is_open(&self, who: Local) -> bool {
        let slot = self.slots.get(who.slot as usize);
        slot.is_some_and(|slot| slot.generation == who.generation && slot.wire.is_some())
    }

    /// Returns whether frames for the connection are sent: it is open and not mute.
    pub(super) fn accepts(&self, who: Local) -> bool {
        self.is_open(who) && !self.get(who.slot).is_mute()
    }

    /// Returns the id of the connection that uses the slot, or will use it next.
    pub(super) fn id(&self, slot: u32) -> Local {
        Local { shard: self.shard, slot, generation: self.get(slot).generation }
    }

    /// Returns the id of the open connection in the slot.
    pub(super) fn current(&self, slot: u32) -> Option<Local> {
        self.wire(slot)?;
        Some(self.id(slot))
    }

    /// Returns the socket of the open connection in the slot.
    pub(super) fn wire(&self, slot: u32) -> Option<&W> {
        self.slots.get(slot as usize)?.wire.as_ref()
    }

    /// Returns the limits of the connection's outbox.
    pub(super) fn policy(&self, slot: u32) -> OutboxPolicy {
        self.policies[usize::from(self.get(slot).policy)]
    }

    /// Takes the socket out and drops what waits for it. The connection keeps its id until it is [released](Self::release).
    pub(super) fn take_wire(&mut self, slot: u32) -> Option<W> {
        let slot = self.get_mut(slot);
        slot.drop_outbox();
        slot.mute();
        slot.wire.take()
    }

    /// Frees the slot for the next connection, under a new generation. A slot that has used up its generations is retired.
    pub(super) fn release(&mut self, who: Local) {
        let slot = self.get_mut(who.slot);
        debug_assert!(slot.generation == who.generation && slot.wire.is_none());
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(who.slot);
        }
    }

    /// Returns the index of a policy in `policies`, and adds it if it is new.
    fn policy_index(&mut self, policy: OutboxPolicy) -> u16 {
        let index = self.policies.iter().position(|known| *known == policy).unwrap_or_else(|| {
            self.policies.push(policy);
            self.policies.len() - 1
        });
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    /// Checks that each slot agrees with itself, and that it owns no memory without need.
    #[cfg(test)]
    pub(super) fn assert_consistent(&self) {
        for (number, slot) in self.iter() {
            slot.memberships.assert_consistent();
            let count = slot.memberships.len();
            assert_eq!(slot.flags.has(Flags::SEVERAL), count > 1);
            assert!(slot.outbox().is_none_or(|outbox| outbox.bytes() > 0), "an empty outbox was not freed");
            if slot.wire.is_none() {
                assert!(count == 0 && slot.outbox.is_none());
            }
            assert!(!self.free.contains(&number) || slot.wire.is_none());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::outbox::Overflow;

    const POLICY: OutboxPolicy =
        OutboxPolicy { outbox: 400, overflow: Overflow::Disconnect, compress_above: usize::MAX };

    #[test]
    fn a_slot_whose_generations_are_used_up_is_retired() {
        let mut slots = Slots::new(0);
        let first = slots.reserve(2).unwrap();
        slots.get_mut(first.slot).generation = u32::MAX - 1;
        slots.release(Local { generation: u32::MAX - 1, ..first });
        let last = slots.reserve(2).unwrap();
        assert_eq!(last, Local { generation: u32::MAX, ..first });
        slots.open(last, (), Encoding::WebSocket, POLICY);
        assert!(slots.take_wire(last.slot).is_some());
        slots.release(last);
        let next = slots.reserve(2).unwrap();
        assert_ne!(next.slot, first.slot);
        assert!(slots.reserve(2).is_none(), "a retired slot still counts as one");
    }

    #[test]
    fn an_id_is_open_from_its_opening_until_its_socket_is_taken() {
        let mut slots = Slots::new(3);
        let who = slots.reserve(1).unwrap();
        assert!(!slots.is_open(who) && slots.current(who.slot).is_none());
        slots.open(who, (), Encoding::Sse, POLICY);
        assert!(slots.is_open(who) && slots.current(who.slot) == Some(who));
        assert_eq!((slots.get(who.slot).flags().encoding(), slots.policy(who.slot)), (Encoding::Sse, POLICY));
        assert!(slots.take_wire(who.slot).is_some() && !slots.is_open(who));
        assert!(slots.get(who.slot).flags().has(Flags::MUTE));
        slots.release(who);
        let next = slots.reserve(1).unwrap();
        slots.open(next, (), Encoding::WebSocket, POLICY);
        assert!(slots.is_open(next) && !slots.is_open(who));
        assert!(!slots.get(next.slot).flags().has(Flags::MUTE), "a flag of the previous connection was kept");
        slots.assert_consistent();
    }

    #[test]
    fn a_connection_is_flagged_while_it_is_in_several_rooms() {
        let mut slots = Slots::new(0);
        let who = slots.reserve(1).unwrap();
        slots.open(who, (), Encoding::WebSocket, POLICY);
        let slot = slots.get_mut(who.slot);
        let mut several = Vec::new();
        for room in 0..3 {
            slot.join(RoomMembership::new(room, 0, 0));
            several.push(slot.flags().has(Flags::SEVERAL));
        }
        for room in 0..2 {
            slot.leave(room);
            several.push(slot.flags().has(Flags::SEVERAL));
        }
        assert_eq!(several, [false, true, true, true, false]);
        slot.join(RoomMembership::new(0, 0, 0));
        assert_eq!(slot.leave_all().count(), 2);
        assert!(!slot.flags().has(Flags::SEVERAL));
    }
}
