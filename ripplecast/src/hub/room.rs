//! Rooms: a named set of connections, and one order for everything that is pushed to it.

mod rules;

use std::{
    any::Any,
    collections::HashMap,
    hash::BuildHasher,
    sync::{Arc, Weak},
};

use crate::{
    Error, Frame, Result, Sent,
    limits::{NAME, ROOM_STRIPES},
    sync::{
        Mutex, RandomState,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    batch::Source,
    bridge::{Bridge, Group},
    command::{Command, Cursor, Snapshot},
    connection::{ConnectionId, Local},
    mailbox::{Mailbox, Wake},
    outbox::Overflow,
    shards::Shards,
};

pub use self::rules::RoomOptions;
pub(crate) use self::rules::{RoomRules, Setup};

/// Says that a shard has no members of a room.
const NOWHERE: u32 = u32::MAX;

/// What all handles of a room share. It lives while it has members or handles, and is then forgotten.
pub(crate) struct RoomCore<W> {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Tells this life of the room from an earlier one of the same name.
    epoch: u64,
    /// What happens when one of its frames does not fit an outbox; `None` for what the endpoint says.
    overflow: Option<Overflow>,
    /// What all rooms share.
    setup: Arc<Setup>,
    /// By shard: where the shard keeps its members of the room. Only that shard reads and writes it.
    places: Box<[AtomicU32]>,
    /// Who is in it, and how many messages it has had. Held while a push is posted: that makes the one order.
    state: Mutex<State>,
    /// The mailboxes of all shards.
    mailboxes: Arc<[Arc<Mailbox<W>>]>,
    /// Where its name is registered.
    registry: Weak<Registry<W>>,
    /// What publishes to it by itself, by name, for as long as anybody holds it.
    publishers: parking_lot::Mutex<Vec<(String, Weak<dyn Any + Send + Sync>)>>,
}

/// What a room's lock guards.
#[derive(Default)]
struct State {
    /// Members, packed. The room of all connections has no list: who is in it, the shards know.
    members: hashbrown::HashSet<u64>,
    /// Whether there is a list.
    unlisted: bool,
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
        setup: Arc<Setup>,
        mailboxes: Arc<[Arc<Mailbox<W>>]>,
        registry: Weak<Registry<W>>,
    ) -> Self {
        let shards = mailboxes.len();
        let places = (0..shards).map(|_| AtomicU32::new(NOWHERE)).collect();
        let state = State { per_shard: vec![0; shards].into(), ..State::default() };
        let publishers = parking_lot::Mutex::default();
        let state = Mutex::new(state);
        let overflow = setup.rules.overflow(&name);
        Self { name, epoch, overflow, setup, places, state, mailboxes, registry, publishers }
    }

    /// Makes it the room of all connections, each of which enters and is forgotten by its shard, once, and never by name.
    pub(crate) fn unlisted(self) -> Self {
        self.state.lock().unlisted = true;
        self
    }

    /// Posts `frame` to every shard that has members, or, when the mailbox of one is full, to none; and then to the other
    /// nodes.
    pub(crate) fn push(self: &Arc<Self>, frame: &Frame) -> Sent {
        self.push_to(frame, self.setup.bridge())
    }

    /// As [`push`](Self::push), on this node alone.
    pub(crate) fn push_here(self: &Arc<Self>, frame: &Frame) -> Sent {
        self.push_to(frame, None)
    }

    /// Pushes a frame here, and over the bridge.
    fn push_to(self: &Arc<Self>, frame: &Frame, bridge: Option<&Arc<dyn Bridge>>) -> Sent {
        let compressed_once;
        let frame = if frame.len() > self.setup.compress_above.load(Ordering::Relaxed) {
            compressed_once = frame.clone().with_shared_deflated();
            &compressed_once
        } else {
            frame
        };
        let mut wakes = Vec::new();
        let mut state = self.state.lock();
        let offset = state.offset + 1;
        let posted = self.post_from(0, &state.per_shard, frame, offset, &mut wakes);
        if posted.is_ok() {
            state.offset = offset;
            if let Some(bridge) = bridge {
                bridge.push((!state.unlisted).then_some(&self.name), frame);
            }
        }
        drop(state);
        drop(wakes);
        if matches!(posted, Err(Error::Overloaded { .. })) {
            self.setup.drops.refused(None);
        }
        Sent::from_posted(&posted)
    }

    /// What it says of its frames.
    pub(crate) fn source(&self) -> Source {
        Source { scope: self.epoch, overflow: self.overflow }
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
    /// [`Error::Closed`] when the connection is; [`Error::Overloaded`] when the mailbox of its shard is full.
    pub(crate) fn join(self: &Arc<Self>, who: Local, snapshot: Option<Frame>) -> Result<()> {
        let mut state = self.state.lock();
        let mut mailbox = self.mailboxes[who.shard()].lock();
        if !mailbox.state.is_live(who) {
            return Err(Error::Closed);
        }
        match &snapshot {
            Some(frame) => mailbox.check(frame.len())?,
            None => mailbox.check_control()?,
        }
        let mut wakes = [const { None }; 2];
        if state.members.insert(who.pack()) {
            state.per_shard[who.shard()] += 1;
            wakes[0] = Some(mailbox.post(Command::Join { who, room: self.clone() }));
            self.changed(&state);
        }
        if let Some(frame) = snapshot {
            let cursor = Some(Cursor { epoch: self.epoch, offset: state.offset });
            let of = Some(Snapshot { source: self.source(), cursor, is_first: true });
            wakes[1] = Some(mailbox.post(Command::Push { to: who, frame, of }));
        }
        drop(mailbox);
        drop(state);
        drop(wakes);
        Ok(())
    }

    /// Sends a part of the room's state to one connection; the first part is to say so.
    ///
    /// # Errors
    /// As [`RoomCore::join`].
    pub(crate) fn push_state(&self, who: Local, frame: Frame, is_first: bool) -> Result<()> {
        let mut mailbox = self.mailboxes[who.shard()].lock();
        if !mailbox.state.is_live(who) {
            return Err(Error::Closed);
        }
        mailbox.check(frame.len())?;
        let of = Some(Snapshot { source: self.source(), cursor: None, is_first });
        let wake = mailbox.post(Command::Push { to: who, frame, of });
        drop(mailbox);
        drop(wake);
        Ok(())
    }

    /// Makes `who` no member. What was pushed to the room before still reaches it. Whether it was one.
    pub(crate) fn leave(self: &Arc<Self>, who: Local) -> bool {
        let mut state = self.state.lock();
        if !state.remove(who) {
            return false;
        }
        self.changed(&state);
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
        if state.unlisted || state.members.insert(who.pack()) {
            state.per_shard[who.shard()] += 1;
            self.changed(&state);
        }
    }

    /// The shard of `who` has closed it, so it is a member no more.
    pub(crate) fn forget(&self, who: Local) {
        let mut state = self.state.lock();
        if state.remove(who) {
            self.changed(&state);
        }
    }

    /// Tells the other nodes how many members there are.
    fn changed(&self, state: &State) {
        if let (Some(bridge), false) = (self.setup.bridge(), state.unlisted) {
            bridge.room_changed(&self.name, state.members.len());
        }
    }

    /// The publisher of that name, which is made if nobody holds one: so that nothing is published twice.
    pub(crate) fn publisher<T: Any + Send + Sync>(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Arc<T>>,
    ) -> Result<Arc<T>> {
        let mut publishers = self.publishers.lock();
        publishers.retain(|(_, publisher)| publisher.strong_count() > 0);
        let known =
            publishers.iter().find(|(known, _)| known == name).and_then(|(_, publisher)| publisher.upgrade());
        if let Some(known) = known.and_then(|known| known.downcast().ok()) {
            return Ok(known);
        }
        let made = make()?;
        let weak: Weak<T> = Arc::downgrade(&made);
        publishers.push((name.to_owned(), weak));
        Ok(made)
    }

    /// Number of members.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().per_shard.iter().map(|&members| members as usize).sum()
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
        let was_member = self.unlisted || self.members.remove(&who.pack());
        if was_member {
            self.per_shard[who.shard()] -= 1;
            if self.members.is_empty() && !self.unlisted {
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

/// Rooms whose names have the same hash.
type Stripe<W> = Mutex<HashMap<Arc<str>, Weak<RoomCore<W>>>>;

/// All rooms by name. It holds them weakly: members and handles keep a room, names don't.
pub(crate) struct Registry<W> {
    /// Striped by the hash of the name, so that rooms don't wait for each other.
    stripes: Box<[Stripe<W>]>,
    /// Chooses the stripe, and gives each room its epoch.
    hasher: RandomState,
    /// The mailboxes of all shards, for new rooms.
    mailboxes: Arc<[Arc<Mailbox<W>>]>,
    /// What all rooms share.
    setup: Arc<Setup>,
    /// How many rooms were made; with the hasher's random keys it makes epochs that don't repeat.
    made: Mutex<u64>,
}

impl<W> Registry<W> {
    /// No rooms.
    pub(crate) fn new(mailboxes: Arc<[Arc<Mailbox<W>>]>, setup: Arc<Setup>) -> Self {
        let stripes = (0..ROOM_STRIPES).map(|_| Mutex::new(HashMap::new())).collect();
        Self { stripes, hasher: RandomState::new(), mailboxes, setup, made: Mutex::new(0) }
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
            self.setup.clone(),
            self.mailboxes.clone(),
            Arc::downgrade(self),
        ));
        stripe.insert(name, Arc::downgrade(&room));
        room
    }

    /// The room of that name, if it has members or handles.
    pub(crate) fn existing(&self, name: &str) -> Option<Arc<RoomCore<W>>> {
        self.stripe(name).lock().get(name).and_then(Weak::upgrade)
    }

    /// The rooms that have members or handles, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<RoomCore<W>>> {
        let mut rooms = Vec::new();
        for stripe in &self.stripes {
            // Kept until the lock is released: the last one to let go of a room takes it.
            rooms.extend(stripe.lock().values().filter_map(Weak::upgrade));
        }
        rooms
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
    fn stripe(&self, name: &str) -> &Stripe<W> {
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
/// push to one member after a push to its room does not overtake it. (Save a slow member under
/// [`Overflow::LatestPerKey`]: there a newer frame comes in the place of the older one with its key.)
///
/// **Overload.** When a shard of the node is so far behind that its mailbox is full, a push is refused on all shards:
/// [`Sent::Dropped`]. What happens to a member that does not read says the [`Overflow`] policy of the room, if it has
/// [one](RoomOptions::overflow), or of the member's endpoint. It slows nobody.
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
    /// The connections of the node, and the way to others.
    pub(super) shards: Arc<Shards>,
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

    /// Number of members, on all nodes. A connection's own `join` is visible to its next call on the same node, and to others
    /// some milliseconds later.
    ///
    /// # Errors
    /// None with the memory backend; [`Error::Backend`] when a shared one is away.
    pub async fn len(&self) -> Result<usize> {
        self.shards.count(Group::Room(&self.core.name)).await
    }

    /// Number of members on this node alone; what is shared is not asked.
    pub fn len_here(&self) -> usize {
        self.core.len()
    }

    /// Whether the room has no members.
    ///
    /// # Errors
    /// As [`Room::len`].
    pub async fn is_empty(&self) -> Result<bool> {
        Ok(self.len().await? == 0)
    }

    /// The members, on all nodes, in the order of their ids, as they are at this moment. One that
    /// [`close`](crate::Connection::close) was called on is among them until its shard has taken note.
    ///
    /// # Errors
    /// As [`Room::len`], and when another node does not answer.
    pub async fn members(&self) -> Result<Vec<ConnectionId>> {
        self.shards.all_connections(Group::Room(&self.core.name)).await
    }

    /// A page of the members: up to `limit` behind that one, in the order of their ids. Fewer than `limit` only at the end;
    /// begin with `None`, and go on with the last of the page. Whoever is a member from the first page to the last is seen
    /// once.
    ///
    /// # Errors
    /// As [`Room::members`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let room = hub.room("lobby");
    /// let mut page = room.members_after(None, 100).await?;
    /// while let Some(&last) = page.last() {
    ///     page = room.members_after(Some(last), 100).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn members_after(
        &self,
        after: Option<ConnectionId>,
        limit: usize,
    ) -> Result<Vec<ConnectionId>> {
        self.shards.connections_after(Group::Room(&self.core.name), after, limit).await
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("name", &self.core.name).field("len", &self.core.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::MutexGuard;

    fn registry(shards: usize) -> Arc<Registry<()>> {
        {
            let mailboxes = (0..shards).map(|_| Arc::new(Mailbox::new())).collect();
            Arc::new(Registry::new(mailboxes, Arc::default()))
        }
    }

    /// A connection that was opened.
    fn open(registry: &Registry<()>, shard: u8, slot: u32) -> Local {
        let who = Local { shard, slot, generation: 1 };
        registry.mailboxes[who.shard()].lock().state.open(who);
        who
    }

    /// The commands that wait for a shard: `j`oin, `l`eave, `c`ast, `p`ush.
    fn waiting(registry: &Registry<()>, shard: usize) -> String {
        let mut todo = std::collections::VecDeque::new();
        registry.mailboxes[shard].drain_into(&mut todo);
        let letter = |command: Command<()>| {
            registry.mailboxes[shard].taken_up();
            match command {
                Command::Join { .. } => 'j',
                Command::Leave { .. } => 'l',
                Command::Cast { .. } => 'c',
                Command::Push { .. } => 'p',
                _ => '?',
            }
        };
        todo.into_iter().map(letter).collect()
    }

    #[test]
    fn a_room_lives_as_long_as_a_handle_or_a_member() {
        let registry = registry(1);
        let first = registry.room("a");
        assert!(Arc::ptr_eq(&first, &registry.room("a")));
        let epoch = first.epoch;
        let who = open(&registry, 0, 0);
        first.join(who, None).unwrap();
        drop(first);
        assert_eq!(registry.len(), 1, "the waiting join keeps it");
        assert_eq!(registry.room("a").epoch, epoch);
        assert_eq!(waiting(&registry, 0), "j");
        assert_eq!(registry.len(), 0, "nothing keeps it any more: no shard has taken the member in");
        assert_ne!(registry.room("a").epoch, epoch, "a new life has a new epoch");
        assert_eq!(registry.len(), 0);
    }

    #[test]
    fn the_late_end_of_a_room_does_not_take_its_successor_away() {
        let registry = registry(1);
        let first = registry.room("a");
        let stale = Weak::new();
        // As it is between the end of the last handle and the room's own farewell to the registry.
        registry.stripe("a").lock().insert("a".into(), stale);
        let second = registry.room("a");
        assert!(!Arc::ptr_eq(&first, &second));
        drop(first);
        assert!(Arc::ptr_eq(&second, &registry.room("a")));
        drop(second);
        assert_eq!(registry.len(), 0);
    }

    #[test]
    fn only_shards_with_members_are_told() {
        let registry = registry(3);
        let room = registry.room("a");
        assert!(room.push(&Frame::from("to nobody")).is_queued());
        let (one, two) = (open(&registry, 0, 0), open(&registry, 2, 0));
        room.join(one, None).unwrap();
        room.join(two, Some("snapshot".into())).unwrap();
        room.join(two, None).unwrap();
        assert!(room.push(&Frame::from("x")).is_queued());
        assert!(room.leave(one));
        assert!(!room.leave(one));
        assert!(room.push(&Frame::from("y")).is_queued());
        let all: Vec<_> = (0..3).map(|shard| waiting(&registry, shard)).collect();
        assert_eq!(all, ["jcl", "", "jpcc"]);
    }

    #[test]
    fn who_is_closed_joins_nothing() {
        let registry = registry(1);
        let room = registry.room("a");
        let who = open(&registry, 0, 0);
        let later = Local { generation: 2, ..who };
        assert!(matches!(room.join(later, None), Err(Error::Closed)));
        registry.mailboxes[0].lock().state.close(who);
        assert!(matches!(room.join(who, None), Err(Error::Closed)));
        assert_eq!((room.len(), waiting(&registry, 0).as_str()), (0, ""));
    }

    #[test]
    fn a_push_that_one_shard_refuses_reaches_none_and_has_no_number() {
        let registry = registry(3);
        let room = registry.room("a");
        for shard in 0..3 {
            room.join(open(&registry, shard, 0), None).unwrap();
            waiting(&registry, usize::from(shard));
        }
        let offset = |room: &RoomCore<()>| room.state.lock().offset;
        assert!(room.push(&Frame::from("x")).is_queued());
        let to = Local { shard: 1, slot: 0, generation: 1 };
        static ZEROS: [u8; crate::limits::MAILBOX_BYTES] = [0; crate::limits::MAILBOX_BYTES];
        let frame = Frame::binary(bytes::Bytes::from_static(&ZEROS));
        registry.mailboxes[1].post(Command::Push { to, frame, of: None });
        assert_eq!(room.push(&Frame::from("y")), Sent::Dropped(crate::Dropped::Overloaded));
        assert_eq!(offset(&room), 1);
        let all: Vec<_> = (0..3).map(|shard| waiting(&registry, shard)).collect();
        assert_eq!(all, ["c", "cp", "c"]);
    }

    #[test]
    fn an_empty_room_keeps_no_memory_of_how_large_it_was() {
        let registry = registry(1);
        let room = registry.room("a");
        for slot in 0..100 {
            room.enter(Local { shard: 0, slot, generation: 1 });
        }
        for slot in 0..100 {
            room.forget(Local { shard: 0, slot, generation: 1 });
        }
        let state: MutexGuard<'_, State> = room.state.lock();
        assert_eq!((state.members.capacity(), &*state.per_shard), (0, &[0][..]));
    }

    #[test]
    fn all_rooms_are_listed() {
        let registry = registry(1);
        let kept = [registry.room("a"), registry.room("b")];
        drop(registry.room("c"));
        let mut names: Vec<_> = registry.all().iter().map(|room| room.name.to_string()).collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
        drop(kept);
        assert!(registry.all().is_empty());
    }

    #[test]
    fn a_long_name_is_refused() {
        assert!(check_name("room name", &"x".repeat(NAME)).is_ok());
        let error = check_name("room name", &"x".repeat(NAME + 1)).unwrap_err();
        assert!(matches!(error, Error::NameTooLong { len: 256, limit: 255, .. }));
    }
}
