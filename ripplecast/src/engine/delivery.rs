//! Delivery: the connections of a shard, its part of the rooms, and the outboxes. No sockets, no clock, no tasks.
//!
//! Its parts call each other in this order only: [`fanout`] (rooms and the frames that wait in them) over [`send`]
//! (writes to single connections), which owns [`slots`] (the slab of connections), [`taps`] and [`shed`].
//!
//! **One order.** Every room push that reaches the shard is stamped with the shard's next number. Undelivered frames
//! wait in their room, encoded and stamped, and are fanned out to a bounded number of members at a time. In the
//! common case, a member in one waiting room, that is one write for each member. Two cases could break the order:
//! something else is sent to a connection while one of its rooms waits, or a connection is in two rooms that wait.
//! There, [`Delivery::catch_up`] first sends that connection everything that waits for it, in the order of the
//! stamps, and notes the last stamp.
//!
//! **Churn.** A room's members are a dense array. During a fan-out it has three parts,
//! `[served | to serve | joined later]`, so that members may join and leave between two turns.

mod fanout;
mod memberships;
mod send;
mod shed;
mod slots;
mod taps;

use std::sync::Arc;

pub(crate) use self::send::{DeliveryCounts, DeliveryFault};
use self::{fanout::ShardRooms, send::Sender, slots::Flags};
use super::{
    batch::{Encoding, Joined},
    budget::MemoryBudget,
    outbox::{OutboxPolicy, Wire},
    position::Snapshot,
    room::RoomCore,
    tap::TapSender,
};
use crate::{Message, codec::Event, id::Local, limits::SENDS_PER_TURN, outcome::Dropped};

/// Delivers frames to the connections of a shard. See the module.
pub(crate) struct Delivery<W> {
    rooms: ShardRooms<W>,
    sender: Sender<W>,
}

impl<W: Wire> Delivery<W> {
    /// Creates the delivery of a shard without connections. Reports each drop if `report_drops`; otherwise drops are
    /// only counted.
    pub(crate) fn new(shard: u8, budget: Arc<MemoryBudget>, report_drops: bool) -> Self {
        Self { rooms: ShardRooms::new(), sender: Sender::new(shard, budget, report_drops) }
    }

    /// Returns the id of the next connection to be opened; `None` when there is no slot left.
    pub(crate) fn reserve(&mut self, max_slots: usize) -> Option<Local> {
        self.sender.slots_mut().reserve(max_slots)
    }

    /// Opens a reserved connection.
    pub(crate) fn open(&mut self, who: Local, wire: W, encoding: Encoding, policy: OutboxPolicy) {
        self.sender.slots_mut().open(who, wire, encoding, policy);
    }

    /// Returns whether the connection has a socket.
    pub(crate) fn is_open(&self, who: Local) -> bool {
        self.sender.slots().is_open(who)
    }

    /// Returns the id of the open connection in the slot.
    pub(crate) fn current(&self, slot: u32) -> Option<Local> {
        self.sender.slots().current(slot)
    }

    /// Returns the number of the shard.
    pub(crate) fn shard(&self) -> u8 {
        self.sender.slots().shard()
    }

    /// Returns the socket of the open connection in the slot.
    pub(crate) fn wire(&self, slot: u32) -> Option<&W> {
        self.sender.slots().wire(slot)
    }

    /// Returns whether frames for the connection are discarded: a close frame was sent, or it has a fault.
    pub(crate) fn is_mute(&self, slot: u32) -> bool {
        self.sender.slots().get(slot).is_mute()
    }

    /// Discards all frames for the connection from now on, except what the shard itself [appends](Self::append).
    pub(crate) fn mute(&mut self, slot: u32) {
        self.sender.slots_mut().get_mut(slot).mute();
    }

    /// Returns how the connection's frames are encoded.
    pub(crate) fn encoding(&self, slot: u32) -> Encoding {
        self.sender.slots().get(slot).flags().encoding()
    }

    /// Returns the bytes that wait in the connection's outbox.
    pub(crate) fn backlog(&self, slot: u32) -> usize {
        self.sender.slots().get(slot).backlog()
    }

    /// Removes a connection from every room and takes its socket. Drops the frames that wait for it. The connection
    /// keeps its id until it is [released](Self::release).
    pub(crate) fn detach(&mut self, who: Local) -> Option<W> {
        self.leave_all(who);
        self.sender.detach(who.slot)
    }

    /// Frees the slot for the next connection, under a new generation.
    pub(crate) fn release(&mut self, who: Local) {
        self.sender.slots_mut().release(who);
    }

    /// Adds a connection to a room. Frames pushed before do not reach it.
    pub(crate) fn join(&mut self, who: Local, room: &Arc<RoomCore<W>>) {
        self.rooms.join(self.sender.slots_mut(), who, room);
    }

    /// Removes a connection from a room, after sending it the frames pushed before.
    pub(crate) fn leave(&mut self, who: Local, room: &Arc<RoomCore<W>>) {
        self.rooms.leave(&mut self.sender, who, room);
    }

    /// Removes a connection from all rooms, here and in their member counts.
    pub(crate) fn leave_all(&mut self, who: Local) {
        self.rooms.leave_all(self.sender.slots_mut(), who);
    }

    /// Queues a room's frame for its members on this shard.
    pub(crate) fn broadcast(&mut self, room: &Arc<RoomCore<W>>, message: &Message, offset: u64) {
        self.rooms.broadcast(&mut self.sender, room, message, offset);
    }

    /// Returns the encoded bytes that wait in rooms.
    pub(crate) fn waiting(&self) -> usize {
        self.rooms.waiting()
    }

    /// Returns whether any room has frames to deliver.
    pub(crate) fn is_dirty(&self) -> bool {
        self.rooms.is_dirty()
    }

    /// Delivers frames that wait in rooms, to at most [`SENDS_PER_TURN`] members.
    pub(crate) fn fan_out(&mut self) {
        self.rooms.fan_out(&mut self.sender, SENDS_PER_TURN);
    }

    /// Sends a frame to one connection, behind the frames that wait in its rooms.
    pub(crate) fn push(&mut self, who: Local, message: &Message, of: Option<Snapshot>) {
        self.rooms.push(&mut self.sender, who, message, of);
    }

    /// Sends encoded frames to one connection, behind the frames that wait in its rooms. Leaves `frames` empty.
    pub(crate) fn send_encoded(&mut self, slot: u32, frames: &mut Joined) {
        self.rooms.send_encoded(&mut self.sender, slot, frames);
    }

    /// Sends one connection all frames that wait in its rooms, so that something else may follow.
    pub(crate) fn catch_up(&mut self, slot: u32) {
        self.rooms.catch_up(&mut self.sender, slot);
    }

    /// Queues control bytes, such as a close frame, even for a mute connection and beyond the limit of its outbox.
    pub(crate) fn append(&mut self, slot: u32, bytes: &[u8]) {
        self.sender.append(slot, bytes);
    }

    /// Writes the frames in the outbox, now that the socket takes more.
    pub(crate) fn flush(&mut self, slot: u32) {
        self.sender.flush(slot);
    }

    /// Drops the frames in the outbox, except a half-written one. For a slow consumer's close frame.
    pub(crate) fn discard_backlog(&mut self, slot: u32, reason: Dropped) {
        self.sender.discard_backlog(slot, reason);
    }

    /// Reports the connection's frames to a tap from now on.
    pub(crate) fn tap(&mut self, who: Local, sender: TapSender) {
        self.sender.tap(who, sender);
    }

    /// Returns whether a tap observes the connection.
    pub(crate) fn is_tapped(&self, slot: u32) -> bool {
        self.sender.slots().get(slot).flags().has(Flags::TAPPED)
    }

    /// Reports a received frame to the connection's taps.
    pub(crate) fn report_received(&mut self, who: Local, event: &Event<'_>) {
        self.sender.report_received(who, event);
    }

    /// Sets the bytes that an incoming message of the connection holds, until it is complete and handled.
    pub(crate) fn set_incoming(&mut self, slot: u32, bytes: usize) {
        self.sender.set_incoming(slot, bytes);
    }

    /// Sheds if too much waits on the hub; to be called each turn. Returns what [`Delivery::shed`] returns.
    pub(crate) fn shed_if_over(&mut self) -> Option<usize> {
        self.sender.shed_if_over()
    }

    /// Sheds the slowest connections of this shard until little enough waits, or until another shard has a slower one.
    /// Returns the number of that shard, which is to be woken.
    pub(crate) fn shed(&mut self) -> Option<usize> {
        self.sender.shed()
    }

    /// Returns the next connection to be closed.
    pub(crate) fn next_fault(&mut self) -> Option<(Local, DeliveryFault)> {
        self.sender.next_fault()
    }

    /// Returns what was counted since the last call.
    pub(crate) fn take_counts(&mut self) -> DeliveryCounts {
        self.sender.take_counts()
    }

    /// Returns the drops since the last call, if they are reported: for whom, why, and how many frames.
    pub(crate) fn take_drop_reports(&mut self) -> impl Iterator<Item = (Local, Dropped, u32)> {
        self.sender.take_drop_reports()
    }
}

#[cfg(test)]
mod tests;
