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
mod send;
mod shed;
mod taps;

use std::{collections::VecDeque, sync::Arc};

use hashbrown::{HashMap, HashTable};

use super::{
    batch::{Batch, DIALECTS, Dialect, Joined},
    budget::Ledger,
    drops::Drops,
    outbox::{Outbox, Profile, Wire},
    room::RoomCore,
    tap::Ear,
};
use crate::{id::Local, outcome::Dropped};

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

/// What is to be known of a connection at a glance.
#[derive(Clone, Copy, Default)]
struct Flags(u8);

impl Flags {
    /// The two bits that hold the number of its [`Dialect`].
    const DIALECT: u8 = 3;
    /// Nothing more goes to it: a close frame was sent, or it has a fault.
    const MUTE: u8 = 4;
    /// It has had, or is not to get, some of what a room of its own has still to deliver.
    const AHEAD: u8 = 8;
    /// It is in several rooms.
    const SEVERAL: u8 = 16;
    /// Somebody looks into it.
    const TAPPED: u8 = 32;

    fn has(self, any_of: u8) -> bool {
        self.0 & any_of != 0
    }

    /// Those of a connection that has just been opened.
    fn new(dialect: Dialect) -> Self {
        Self(dialect as u8)
    }

    fn dialect(self) -> Dialect {
        Dialect::ALL[usize::from(self.0 & Self::DIALECT)]
    }

    fn set(&mut self, flag: u8, on: bool) {
        self.0 = if on { self.0 | flag } else { self.0 & !flag };
    }
}

/// Membership in a room of this shard.
#[derive(Clone, Copy)]
struct Membership {
    /// The place of the room in `Core::rooms`; `NONE` when unused.
    room: u32,
    /// The index in the room's members.
    index: u32,
    /// Stamps up to this one don't concern the member: it has had them, or was not in the room yet.
    seen: u64,
}

/// No room.
const NONE: u32 = u32::MAX;

impl Membership {
    const UNUSED: Self = Self { room: NONE, index: 0, seen: 0 };
}

/// All that the core keeps for an idle connection.
struct Slot<W> {
    /// The socket; `None` when the slot is free.
    wire: Option<W>,
    /// Which connection of this slot it is; never used twice.
    generation: u32,
    /// At a glance.
    flags: Flags,
    /// Which of `Core::profiles` holds.
    profile: u16,
    /// What the socket would not take yet.
    outbox: Option<Box<Outbox>>,
    /// The first two rooms, which is all that most are in: that of all connections, and one more.
    rooms: [Membership; 2],
    /// Further rooms.
    more_rooms: Option<Box<MoreRooms>>,
}

/// The rooms of a connection that is in more than two, by their places.
#[derive(Default)]
struct MoreRooms(HashTable<Membership>);

impl MoreRooms {
    /// Least capacity at which memory is given back.
    const LARGE: usize = 64;

    /// Spreads places, which are small and dense, over all bits.
    fn hash(place: u32) -> u64 {
        let spread = u64::from(place).wrapping_mul(0x9E37_79B9_7F4A_7C15); // 2^64 times the golden ratio's fraction
        spread ^ (spread >> 32)
    }

    fn add(&mut self, membership: Membership) {
        self.0.insert_unique(Self::hash(membership.room), membership, |m| Self::hash(m.room));
    }

    fn find(&self, place: u32) -> Option<&Membership> {
        self.0.find(Self::hash(place), |m| m.room == place)
    }

    fn find_mut(&mut self, place: u32) -> Option<&mut Membership> {
        self.0.find_mut(Self::hash(place), |m| m.room == place)
    }

    fn remove(&mut self, place: u32) -> Option<Membership> {
        let (membership, _) = self.0.find_entry(Self::hash(place), |m| m.room == place).ok()?.remove();
        if self.0.capacity() > Self::LARGE && self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(self.0.len() * 2, |m| Self::hash(m.room));
        }
        Some(membership)
    }
}

/// What a walk touches of a connection is one line of the cache; `docs/performance.md` says so.
#[cfg(not(ripplecast_loom))]
const _: () = assert!(size_of::<Slot<std::net::TcpStream>>() <= 64);

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
    /// The number of the shard.
    shard: u8,
    /// Connections.
    slots: Vec<Slot<W>>,
    /// Free slots.
    free: Vec<u32>,
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
    /// Limits of outboxes, by profile.
    profiles: Vec<Profile>,
    /// Frames to be written at once, put together here.
    scratch: Joined,
    /// What waits on the whole hub.
    ledger: Arc<Ledger>,
    /// What has been counted.
    pub(crate) counts: Counts,
    /// What was dropped for whom, if anybody wants to hear of it.
    pub(crate) drop_reports: Option<Vec<(Local, Dropped, u32)>>,
    /// By slot: bytes held for an incoming message that is unfinished, or that waits for a callback; few have any.
    incoming: HashMap<u32, usize>,
    /// No connection has more bytes waiting, or incoming, than this.
    slowest: usize,
    /// Connections that somebody looks into, oldest first; seldom any.
    taps: Vec<(Local, Ear)>,
}

impl<W: Wire> Core<W> {
    /// Without connections.
    pub(crate) fn new(shard: u8, ledger: Arc<Ledger>, report_drops: bool) -> Self {
        Self {
            shard,
            slots: Vec::new(),
            free: Vec::new(),
            rooms: Vec::new(),
            free_rooms: Vec::new(),
            dirty: VecDeque::new(),
            stamp: 0,
            waiting: 0,
            faults: Vec::new(),
            profiles: Vec::new(),
            scratch: Joined::default(),
            ledger,
            counts: Counts::default(),
            drop_reports: report_drops.then(Vec::new),
            incoming: HashMap::new(),
            slowest: 0,
            taps: Vec::new(),
        }
    }

    // ----- connections -----

    /// The id of the next connection to be opened; `None` when there is no slot left.
    pub(crate) fn reserve(&mut self, max_slots: usize) -> Option<Local> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() >= max_slots => return None,
            None => {
                self.slots.push(Slot {
                    wire: None,
                    generation: 1,
                    flags: Flags::default(),
                    profile: 0,
                    outbox: None,
                    rooms: [Membership::UNUSED; 2],
                    more_rooms: None,
                });
                (self.slots.len() - 1) as u32
            }
        };
        Some(Local { shard: self.shard, slot, generation: self.slots[slot as usize].generation })
    }

    /// Opens a reserved connection.
    pub(crate) fn open(&mut self, who: Local, wire: W, dialect: Dialect, profile: Profile) {
        let profile = self.profile(profile);
        let slot = &mut self.slots[who.slot as usize];
        slot.wire = Some(wire);
        slot.flags = Flags::new(dialect);
        slot.profile = profile;
    }

    /// Whether the id is that of a connection which has a socket.
    pub(crate) fn is_open(&self, who: Local) -> bool {
        let slot = self.slots.get(who.slot as usize);
        slot.is_some_and(|slot| slot.generation == who.generation && slot.wire.is_some())
    }

    /// The open connection of a slot.
    pub(crate) fn current(&self, slot: u32) -> Option<Local> {
        let target = self.slots.get(slot as usize)?;
        target.wire.as_ref()?;
        Some(Local { shard: self.shard, slot, generation: target.generation })
    }

    /// The number of the shard.
    pub(crate) fn shard(&self) -> u8 {
        self.shard
    }

    /// The socket of an open connection.
    pub(crate) fn wire(&self, slot: u32) -> Option<&W> {
        self.slots.get(slot as usize)?.wire.as_ref()
    }

    /// Whether frames for the connection are still sent.
    pub(crate) fn is_mute(&self, slot: u32) -> bool {
        self.slots[slot as usize].flags.has(Flags::MUTE)
    }

    /// Nothing but what the shard itself [appends](Self::append) goes to the connection any more.
    pub(crate) fn mute(&mut self, slot: u32) {
        self.slots[slot as usize].flags.set(Flags::MUTE, true);
    }

    /// How its frames are encoded.
    pub(crate) fn dialect(&self, slot: u32) -> Dialect {
        self.slots[slot as usize].flags.dialect()
    }

    /// Takes a connection out of every room, and its socket with what waits for it. It keeps its id until [`Core::release`].
    pub(crate) fn detach(&mut self, who: Local) -> Option<W> {
        self.leave_all(who);
        self.end_taps(who.slot);
        self.set_incoming(who.slot, 0);
        let slot = &mut self.slots[who.slot as usize];
        slot.outbox = None;
        slot.flags.set(Flags::MUTE, true);
        slot.wire.take()
    }

    /// Gives the slot to the next connection, under a new generation. A slot whose generations are used up is retired.
    pub(crate) fn release(&mut self, who: Local) {
        let slot = &mut self.slots[who.slot as usize];
        debug_assert!(slot.generation == who.generation && slot.wire.is_none());
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(who.slot);
        }
    }

    /// The index of a profile in `profiles`.
    fn profile(&mut self, profile: Profile) -> u16 {
        let index = self.profiles.iter().position(|known| *known == profile).unwrap_or_else(|| {
            self.profiles.push(profile);
            self.profiles.len() - 1
        });
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    /// Notes that the connection is to be closed.
    #[cold]
    fn fault(&mut self, slot: u32, fault: Fault) {
        let target = &mut self.slots[slot as usize];
        if fault == Fault::Lost {
            target.outbox = None;
        }
        target.flags.set(Flags::MUTE, true);
        let who = Local { shard: self.shard, slot, generation: target.generation };
        self.faults.push((who, fault));
    }

    /// The next connection to be closed.
    pub(crate) fn next_fault(&mut self) -> Option<(Local, Fault)> {
        self.faults.pop()
    }
}

impl<W> Slot<W> {
    /// Its rooms.
    fn memberships(&self) -> impl Iterator<Item = &Membership> {
        let more = self.more_rooms.iter().flat_map(|more| &more.0);
        self.rooms.iter().filter(|m| m.room != NONE).chain(more).inspect(|_| work::step())
    }

    /// Its rooms, to be changed.
    fn memberships_mut(&mut self) -> impl Iterator<Item = &mut Membership> {
        let more = self.more_rooms.iter_mut().flat_map(|more| &mut more.0);
        self.rooms.iter_mut().filter(|m| m.room != NONE).chain(more).inspect(|_| work::step())
    }

    /// How many rooms it is in.
    fn room_count(&self) -> usize {
        let inline = self.rooms.iter().filter(|m| m.room != NONE).count();
        inline + self.more_rooms.as_ref().map_or(0, |more| more.0.len())
    }

    /// Its membership in the room at `place`, in constant time.
    fn membership(&self, place: u32) -> Option<&Membership> {
        work::step();
        let inline = self.rooms.iter().find(|m| m.room == place);
        inline.or_else(|| self.more_rooms.as_ref()?.find(place))
    }

    /// The same, to be changed.
    fn membership_mut(&mut self, place: u32) -> Option<&mut Membership> {
        work::step();
        match self.rooms.iter_mut().find(|m| m.room == place) {
            Some(inline) => Some(inline),
            None => self.more_rooms.as_mut()?.find_mut(place),
        }
    }

    /// Adds a room.
    fn add(&mut self, membership: Membership) {
        match self.rooms.iter_mut().find(|m| m.room == NONE) {
            Some(unused) => *unused = membership,
            None => self.more_rooms.get_or_insert_default().add(membership),
        }
        self.flags.set(Flags::SEVERAL, self.room_count() > 1);
    }

    /// Takes a room out.
    fn remove(&mut self, place: u32) -> Option<Membership> {
        let removed = if let Some(inline) = self.rooms.iter_mut().find(|m| m.room == place) {
            std::mem::replace(inline, Membership::UNUSED)
        } else {
            let more = self.more_rooms.as_mut()?;
            let removed = more.remove(place)?;
            if more.0.is_empty() {
                self.more_rooms = None;
            }
            removed
        };
        self.flags.set(Flags::SEVERAL, self.room_count() > 1);
        Some(removed)
    }

    /// Takes all rooms out.
    fn remove_all(&mut self) -> impl Iterator<Item = Membership> + use<W> {
        self.flags.set(Flags::SEVERAL, false);
        let inline = std::mem::replace(&mut self.rooms, [Membership::UNUSED; 2]);
        let more = self.more_rooms.take().map(|more| more.0);
        inline.into_iter().filter(|m| m.room != NONE).chain(more.into_iter().flatten())
    }

    /// Notes the new index in a room's members.
    fn moved(&mut self, place: u32, index: u32) {
        if let Some(membership) = self.membership_mut(place) {
            membership.index = index;
        }
    }
}

/// Counts the memberships that were visited, for tests that limit the work of an operation.
mod work {
    #[cfg(test)]
    std::thread_local! {
        static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }

    #[inline]
    pub(super) fn step() {
        #[cfg(test)]
        STEPS.set(STEPS.get() + 1);
    }

    /// Returns the steps since the last call.
    #[cfg(test)]
    pub(super) fn take() -> u64 {
        STEPS.take()
    }
}

#[cfg(test)]
mod tests;
