//! Rooms: a named set of connections, and one order for everything that is pushed to it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Weak},
};

use crate::{
    Error, Frame, Result, Sent,
    limits::{NAME, ROOM_STRIPES},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    command::{Command, Cursor},
    connection::Local,
    mailbox::{Mailbox, Wake},
};

/// Says that a shard has no members of a room.
const NOWHERE: u32 = u32::MAX;

/// What all handles of a room share. It lives while it has members or handles, and is then forgotten.
pub(crate) struct RoomCore<W> {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Tells this life of the room from an earlier one of the same name.
    epoch: u64,
    /// By shard: where the shard keeps its members of the room. Only that shard reads and writes it.
    places: Box<[AtomicU32]>,
    /// Who is in it, and how many messages it has had. Held while a push is posted: that makes the one order.
    state: Mutex<State>,
    /// The mailboxes of all shards.
    mailboxes: Arc<[Arc<Mailbox<W>>]>,
    /// Where its name is registered.
    registry: Weak<Registry<W>>,
}

/// What a room's lock guards.
#[derive(Default)]
struct State {
    /// Members, packed.
    members: hashbrown::HashSet<u64>,
    /// By shard: the number of its members. A shard without any is not told of a push.
    per_shard: Box<[u32]>,
    /// Messages pushed so far.
    offset: u64,
}

impl<W> RoomCore<W> {
    /// A room without members.
    pub(crate) fn new(
        name: Arc<str>,
        epoch: u64,
        mailboxes: Arc<[Arc<Mailbox<W>>]>,
        registry: Weak<Registry<W>>,
    ) -> Self {
        let shards = mailboxes.len();
        let places = (0..shards).map(|_| AtomicU32::new(NOWHERE)).collect();
        let state = State { per_shard: vec![0; shards].into(), ..State::default() };
        Self { name, epoch, places, state: Mutex::new(state), mailboxes, registry }
    }

    /// Posts `frame` to every shard that has members, or, when the mailbox of one is full, to none.
    pub(crate) fn push(self: &Arc<Self>, frame: &Frame) -> Sent {
        let mut wakes = Vec::new();
        let mut state = self.state.lock();
        let offset = state.offset + 1;
        let posted = self.post_from(0, &state.per_shard, frame, offset, &mut wakes);
        if posted.is_ok() {
            state.offset = offset;
        }
        drop(state);
        drop(wakes);
        Sent::from_posted(&posted)
    }

    /// Posts to the shards from number `first` on. It holds the mailbox of each while it goes on to the next, so that
    /// all are found to have space before the first is given anything.
    fn post_from(
        self: &Arc<Self>,
        first: usize,
        per_shard: &[u32],
        frame: &Frame,
        offset: u64,
        wakes: &mut Vec<Wake>,
    ) -> Result<()> {
        let Some(shard) = (first..per_shard.len()).find(|&shard| per_shard[shard] > 0) else { return Ok(()) };
        let mut mailbox = self.mailboxes[shard].lock();
        mailbox.check(frame.len())?;
        self.post_from(shard + 1, per_shard, frame, offset, wakes)?;
        let wake = mailbox.post(Command::Cast { room: self.clone(), frame: frame.clone(), offset });
        if wake.is_needed() {
            wakes.push(wake);
        }
        Ok(())
    }

    /// Makes `who` a member. With a `snapshot`, that is the first frame that it gets: nothing which was pushed to the
    /// room before this comes after it, and everything pushed later does.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is; [`Error::Overloaded`] when its shard is, and a snapshot was to be sent.
    pub(crate) fn join(self: &Arc<Self>, who: Local, snapshot: Option<Frame>) -> Result<()> {
        let mut state = self.state.lock();
        let mut mailbox = self.mailboxes[who.shard()].lock();
        if !mailbox.state.is_live(who) {
            return Err(Error::Closed);
        }
        if let Some(frame) = &snapshot {
            mailbox.check(frame.len())?;
        }
        let mut wakes = [const { None }; 2];
        if state.members.insert(who.pack()) {
            state.per_shard[who.shard()] += 1;
            wakes[0] = Some(mailbox.post(Command::Join { who, room: self.clone() }));
        }
        if let Some(frame) = snapshot {
            let cursor = Some(Cursor { epoch: self.epoch, offset: state.offset });
            wakes[1] = Some(mailbox.post(Command::Push { to: who, frame, cursor }));
        }
        drop(mailbox);
        drop(state);
        drop(wakes);
        Ok(())
    }

    /// Makes `who` no member. What was pushed to the room before still reaches it. Whether it was one.
    pub(crate) fn leave(self: &Arc<Self>, who: Local) -> bool {
        let mut state = self.state.lock();
        if !state.remove(who) {
            return false;
        }
        let mut mailbox = self.mailboxes[who.shard()].lock();
        let wake = mailbox.post(Command::Leave { who, room: self.clone() });
        drop(mailbox);
        drop(state);
        drop(wake);
        true
    }

    /// The shard of `who` adds it in its own name, when it opens a connection.
    pub(crate) fn enter(&self, who: Local) {
        let mut state = self.state.lock();
        if state.members.insert(who.pack()) {
            state.per_shard[who.shard()] += 1;
        }
    }

    /// The shard of `who` has closed it, so it is a member no more.
    pub(crate) fn forget(&self, who: Local) {
        self.state.lock().remove(who);
    }

    /// Number of members.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().members.len()
    }

    /// The members, in no order.
    pub(crate) fn members(&self) -> Vec<Local> {
        self.state.lock().members.iter().map(|&packed| Local::unpack(packed)).collect()
    }

    /// The cursor of the message with this offset.
    pub(crate) fn cursor(&self, offset: u64) -> Cursor {
        Cursor { epoch: self.epoch, offset }
    }

    /// Where the shard keeps its members of the room; for that shard alone.
    pub(crate) fn place(&self, shard: usize) -> Option<u32> {
        let place = self.places[shard].load(Ordering::Relaxed);
        (place != NOWHERE).then_some(place)
    }

    /// Remembers where the shard keeps its members; for that shard alone.
    pub(crate) fn set_place(&self, shard: usize, place: Option<u32>) {
        self.places[shard].store(place.unwrap_or(NOWHERE), Ordering::Relaxed);
    }
}

impl State {
    /// Takes a member out. Whether it was one.
    fn remove(&mut self, who: Local) -> bool {
        let was_member = self.members.remove(&who.pack());
        if was_member {
            self.per_shard[who.shard()] -= 1;
            if self.members.is_empty() {
                self.members = hashbrown::HashSet::new(); // an empty room keeps no memory of how large it was
            }
        }
        was_member
    }
}

impl<W> Drop for RoomCore<W> {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.forget(&self.name);
        }
    }
}

/// All rooms by name. It holds them weakly: members and handles keep a room, names don't.
pub(crate) struct Registry<W> {
    /// Striped by the hash of the name, so that rooms don't wait for each other.
    stripes: Box<[Mutex<HashMap<Arc<str>, Weak<RoomCore<W>>>>]>,
    /// Chooses the stripe, and gives each room its epoch.
    hasher: RandomState,
    /// The mailboxes of all shards, for new rooms.
    mailboxes: Arc<[Arc<Mailbox<W>>]>,
    /// How many rooms were made; with the hasher's random keys it makes epochs that don't repeat.
    made: Mutex<u64>,
}

impl<W> Registry<W> {
    /// No rooms.
    pub(crate) fn new(mailboxes: Arc<[Arc<Mailbox<W>>]>) -> Self {
        let stripes = (0..ROOM_STRIPES).map(|_| Mutex::new(HashMap::new())).collect();
        Self { stripes, hasher: RandomState::new(), mailboxes, made: Mutex::new(0) }
    }

    /// The room of that name; it is made if there is none.
    pub(crate) fn room(self: &Arc<Self>, name: &str) -> Arc<RoomCore<W>> {
        let mut stripe = self.stripe(name).lock();
        if let Some(room) = stripe.get(name).and_then(Weak::upgrade) {
            return room;
        }
        let name: Arc<str> = name.into();
        let room = Arc::new(RoomCore::new(
            name.clone(),
            self.next_epoch(),
            self.mailboxes.clone(),
            Arc::downgrade(self),
        ));
        stripe.insert(name, Arc::downgrade(&room));
        room
    }

    /// Number of rooms that have members or handles.
    pub(crate) fn len(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.lock().len()).sum()
    }

    /// A random number for each room that was ever made.
    fn next_epoch(&self) -> u64 {
        let mut made = self.made.lock();
        *made += 1;
        self.hasher.hash_one(*made)
    }

    /// The stripe that a name belongs to.
    fn stripe(&self, name: &str) -> &Mutex<HashMap<Arc<str>, Weak<RoomCore<W>>>> {
        let hash = self.hasher.hash_one(name) as usize;
        &self.stripes[hash % self.stripes.len()]
    }

    /// Takes a name out whose room has just gone, unless a new one has taken its place already.
    fn forget(&self, name: &str) {
        let mut stripe = self.stripe(name).lock();
        if stripe.get(name).is_some_and(|room| room.strong_count() == 0) {
            stripe.remove(name);
        }
    }
}

/// Refuses a name that is too long.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
    if name.len() > NAME {
        return Err(Error::NameTooLong { what, len: name.len(), limit: NAME });
    }
    Ok(())
}

/// A named set of connections; what is pushed to it reaches each of them once.
///
/// The handle is cheap to clone and to make. A room exists while it has members or handles; it need not be made or
/// removed.
///
/// **Order.** All members see a room's messages in one order, whichever task, shard or core they were pushed from. A
/// push to one member after a push to its room does not overtake it.
///
/// **Overload.** When a shard of the node is so far behind that its mailbox is full, a push is refused on all shards:
/// [`Sent::Dropped`]. A member that does not read is closed by its endpoint's [`Overflow`](crate::Overflow) policy, and
/// slows nobody.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
/// use ripplecast::Hub;
///
/// let hub = Hub::builder().build()?;
/// let room = hub.room("lobby");
/// assert!(room.push("anybody here?").is_queued());
/// assert_eq!(room.len().await?, 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Room {
    /// What the handles share.
    pub(crate) core: Arc<RoomCore<super::Socket>>,
    /// The node, for the ids of members.
    pub(crate) node: u64,
}

impl Room {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Pushes a frame to every member. Never waits; the frame is encoded once per shard, however many members there are.
    pub fn push(&self, frame: impl Into<Frame>) -> Sent {
        self.core.push(&frame.into())
    }

    /// Number of members. A connection's own `join` is visible to its next call.
    ///
    /// # Errors
    /// None with the memory backend; a shared backend may be unreachable.
    pub async fn len(&self) -> Result<usize> {
        Ok(self.core.len())
    }

    /// Whether the room has no members.
    ///
    /// # Errors
    /// As [`Room::len`].
    pub async fn is_empty(&self) -> Result<bool> {
        Ok(self.core.len() == 0)
    }

    /// The members, in no order, as they are at this moment.
    ///
    /// # Errors
    /// As [`Room::len`].
    pub async fn members(&self) -> Result<Vec<crate::ConnectionId>> {
        Ok(self.core.members().into_iter().map(|local| crate::ConnectionId::new(self.node, local)).collect())
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("name", &self.core.name).field("len", &self.core.len()).finish()
    }
}
