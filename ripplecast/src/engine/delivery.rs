//! The heart of a shard: the slab of connections, its part of the rooms, the outboxes. No sockets, no clock, no tasks.
//!
//! **One order.** Every room push that reaches the shard is stamped with the next number of the shard. What a room has
//! still to deliver waits as encoded bytes with those stamps, and is walked a bounded number of members at a time. In
//! the plain case, a member in one waiting room, a walk is one write a member. Where order could be broken — something
//! else is to be sent to a connection while a room of its own waits, or it is in two rooms that wait — [`Core::catch_up`]
//! first sends that one connection everything that waits for it, in the order of the stamps, and notes how far it is.
//!
//! **Churn.** A room's members are a dense array. While it is walked, it is kept in three parts,
//! `[visited | to visit | joined later]`, so that members may come and go between two turns.

mod fanout;
mod memberships;
mod send;
mod shed;
mod slots;
mod taps;

use std::{collections::VecDeque, sync::Arc};

use self::{
    shed::Shedder,
    slots::{Flags, Slots},
    taps::Taps,
};
use super::{
    batch::{Batch, DIALECTS, Dialect, Joined},
    budget::Ledger,
    drops::Drops,
    outbox::{Profile, Wire},
    room::RoomCore,
    tap::Ear,
};
use crate::{codec::Event, id::Local, outcome::Dropped};

/// A connection that the shard has to close, found while doing something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The socket failed.
    Lost,
    /// Its outbox is full.
    SlowConsumer,
    /// Too much waits on the hub, and nobody has more waiting than it.
    Shed,
    /// The same, and a frame was half written: nothing can be sent any more.
    Cut,
    /// Too much waits on the hub, and no connection holds a longer unfinished incoming message.
    Unfinished,
}

/// What the core counts.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts {
    /// Frames that were dropped for connections.
    pub(crate) drops: Drops,
    /// Rooms' frames that were encoded; once a message and transport, however many members.
    pub(crate) encoded_frames: u64,
}

/// A room's members on this shard, and what they are still to get.
struct LocalRoom<W> {
    /// The room; `None` when the place is free.
    shared: Option<Arc<RoomCore<W>>>,
    /// Slots of its members, dense.
    members: Vec<u32>,
    /// How many of them there are of each dialect.
    speakers: [u32; DIALECTS],
    /// Whether it is in `Core::dirty`.
    queued: bool,
    /// Frames that came since the walk began.
    pending: Batch,
    /// The frames that are being delivered.
    walk: Option<Walk>,
}

/// A walk over a room's members.
struct Walk {
    /// What each is sent.
    batch: Batch,
    /// Members before this index have been visited.
    next: usize,
    /// Members from this index on joined after the walk began.
    end: usize,
}

/// See the module.
pub(crate) struct Core<W> {
    /// Connections.
    slots: Slots<W>,
    /// Rooms with members here.
    rooms: Vec<LocalRoom<W>>,
    /// Free places in `rooms`.
    free_rooms: Vec<u32>,
    /// Rooms that have something to deliver; they take turns.
    dirty: VecDeque<u32>,
    /// The stamp of the latest room push.
    stamp: u64,
    /// Encoded bytes that wait in rooms.
    waiting: usize,
    /// Connections to be closed.
    faults: Vec<(Local, Fault)>,
    /// Frames to be written at once, put together here.
    scratch: Joined,
    /// What has been counted.
    pub(crate) counts: Counts,
    /// What was dropped for whom, if anybody wants to hear of it.
    pub(crate) drop_reports: Option<Vec<(Local, Dropped, u32)>>,
    taps: Taps,
    shedder: Shedder,
}

impl<W: Wire> Core<W> {
    /// Without connections.
    pub(crate) fn new(shard: u8, ledger: Arc<Ledger>, report_drops: bool) -> Self {
        Self {
            slots: Slots::new(shard),
            rooms: Vec::new(),
            free_rooms: Vec::new(),
            dirty: VecDeque::new(),
            stamp: 0,
            waiting: 0,
            faults: Vec::new(),
            scratch: Joined::default(),
            counts: Counts::default(),
            drop_reports: report_drops.then(Vec::new),
            taps: Taps::new(),
            shedder: Shedder::new(shard, ledger),
        }
    }

    /// Returns the id of the next connection to be opened; `None` when there is no slot left.
    pub(crate) fn reserve(&mut self, max_slots: usize) -> Option<Local> {
        self.slots.reserve(max_slots)
    }

    /// Opens a reserved connection.
    pub(crate) fn open(&mut self, who: Local, wire: W, dialect: Dialect, profile: Profile) {
        self.slots.open(who, wire, dialect, profile);
    }

    /// Whether the id is that of a connection which has a socket.
    pub(crate) fn is_open(&self, who: Local) -> bool {
        self.slots.is_open(who)
    }

    /// Returns the id of the open connection in the slot.
    pub(crate) fn current(&self, slot: u32) -> Option<Local> {
        self.slots.current(slot)
    }

    /// Returns the number of the shard.
    pub(crate) fn shard(&self) -> u8 {
        self.slots.shard()
    }

    /// Returns the socket of the open connection in the slot.
    pub(crate) fn wire(&self, slot: u32) -> Option<&W> {
        self.slots.wire(slot)
    }

    /// Whether frames for the connection are discarded: a close frame was sent, or it has a fault.
    pub(crate) fn is_mute(&self, slot: u32) -> bool {
        self.slots.get(slot).is_mute()
    }

    /// Discards all frames for the connection from now on, except what the shard itself [appends](Self::append).
    pub(crate) fn mute(&mut self, slot: u32) {
        self.slots.get_mut(slot).mute();
    }

    /// Returns how the connection's frames are encoded.
    pub(crate) fn dialect(&self, slot: u32) -> Dialect {
        self.slots.get(slot).flags().dialect()
    }

    /// Takes a connection out of every room, and its socket with what waits for it. It keeps its id until [`Core::release`].
    pub(crate) fn detach(&mut self, who: Local) -> Option<W> {
        self.leave_all(who);
        self.taps.end(&mut self.slots, who.slot);
        self.shedder.set_incoming(who.slot, 0);
        self.slots.take_wire(who.slot)
    }

    /// Frees the slot for the next connection, under a new generation.
    pub(crate) fn release(&mut self, who: Local) {
        self.slots.release(who);
    }

    /// Reports the connection's frames to a tap from now on.
    pub(crate) fn tap(&mut self, who: Local, ear: Ear) {
        self.taps.add(&mut self.slots, who, ear);
    }

    /// Whether a tap observes the connection.
    pub(crate) fn is_tapped(&self, slot: u32) -> bool {
        self.slots.get(slot).flags().has(Flags::TAPPED)
    }

    /// Reports to the connection's taps what the peer has sent.
    pub(crate) fn tell_received(&mut self, who: Local, event: &Event<'_>) {
        self.taps.received(&mut self.slots, who, event);
    }

    /// Sets the bytes that an incoming message of the connection holds, until it is complete and handled.
    pub(crate) fn set_incoming(&mut self, slot: u32, bytes: usize) {
        self.shedder.set_incoming(slot, bytes);
    }

    /// Notes that the connection is to be closed.
    #[cold]
    fn fault(&mut self, slot: u32, fault: Fault) {
        let target = self.slots.get_mut(slot);
        if fault == Fault::Lost {
            target.drop_outbox();
        }
        target.mute();
        self.faults.push((self.slots.id(slot), fault));
    }

    /// The next connection to be closed.
    pub(crate) fn next_fault(&mut self) -> Option<(Local, Fault)> {
        self.faults.pop()
    }
}

#[cfg(test)]
mod tests;
