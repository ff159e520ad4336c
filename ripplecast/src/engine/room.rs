//! What all handles of a room share: who is in it, and the lock that makes one order.

mod registry;
mod rules;
#[cfg(test)]
mod tests;

pub use self::rules::RoomOptions;
pub(crate) use self::{
    registry::Registry,
    rules::{RoomRules, Setup},
};

use std::{
    any::Any,
    sync::{Arc, Weak},
};

use super::{
    cluster::Cluster,
    command::Command,
    mailbox::{Mailbox, Wake},
    outbox::Overflow,
    position::{Position, RoomSource, Snapshot},
};
use crate::{
    Error, Message, Result,
    id::Local,
    outcome::Sent,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

/// Says that a shard has no members of a room.
const NOWHERE: u32 = u32::MAX;

/// Where rooms are found by their names.
pub(crate) trait RoomNames: Send + Sync {
    /// Takes a name out whose room has just been dropped, unless a new one has taken its place already.
    fn forget(&self, name: &str);
}

/// What all handles of a room share. It lives while it has members or handles, and is then forgotten.
pub(crate) struct RoomCore<W> {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Tells this life of the room from an earlier one of the same name.
    pub(super) epoch: u64,
    /// What happens when one of its frames does not fit an outbox; `None` for what the endpoint says.
    overflow: Option<Overflow>,
    /// What all rooms share.
    setup: Arc<Setup>,
    /// By shard: where the shard keeps its members of the room. Only that shard reads and writes it.
    places: Box<[AtomicU32]>,
    /// Who is in it, and how many messages it has had. Held while a push is posted: that makes the one order.
    pub(super) state: Mutex<RoomState>,
    /// The mailboxes of all shards.
    mailboxes: Arc<[Arc<Mailbox<Command<W>>>]>,
    /// Where its name is registered.
    registry: Weak<dyn RoomNames>,
    /// What publishes to it by itself, by name, for as long as anybody holds it.
    publishers: parking_lot::Mutex<Vec<(String, Weak<dyn Any + Send + Sync>)>>,
}

/// What a room's lock guards.
#[derive(Default)]
pub(super) struct RoomState {
    /// Members, packed. The room of all connections has no list: who is in it, the shards know.
    pub(super) members: hashbrown::HashSet<u64>,
    /// Whether there is a list.
    unlisted: bool,
    /// By shard: the number of its members. A shard without any is not told of a push.
    pub(super) per_shard: Box<[u32]>,
    /// Messages pushed so far.
    pub(super) offset: u64,
}

impl<W> RoomCore<W> {
    /// A room without members.
    pub(crate) fn new(
        name: Arc<str>,
        epoch: u64,
        setup: Arc<Setup>,
        mailboxes: Arc<[Arc<Mailbox<Command<W>>>]>,
        registry: Weak<dyn RoomNames>,
    ) -> Self {
        let shards = mailboxes.len();
        let places = (0..shards).map(|_| AtomicU32::new(NOWHERE)).collect();
        let state = RoomState { per_shard: vec![0; shards].into(), ..RoomState::default() };
        let publishers = parking_lot::Mutex::default();
        let state = Mutex::new(state);
        let overflow = setup.overflow(&name);
        Self { name, epoch, overflow, setup, places, state, mailboxes, registry, publishers }
    }

    /// Makes it the room of all connections, each of which enters and is forgotten by its shard, once, and never by name.
    pub(crate) fn unlisted(self) -> Self {
        self.state.lock().unlisted = true;
        self
    }

    /// Posts `frame` to every shard that has members, or, when the mailbox of one is full, to none; and then to the other
    /// nodes.
    pub(crate) fn push(self: &Arc<Self>, frame: &Message) -> Sent {
        self.push_to(frame, self.setup.cluster())
    }

    /// As [`push`](Self::push), on this node alone.
    pub(crate) fn push_here(self: &Arc<Self>, frame: &Message) -> Sent {
        self.push_to(frame, None)
    }

    /// Pushes a frame here, and over the cluster.
    fn push_to(self: &Arc<Self>, frame: &Message, cluster: Option<&Arc<dyn Cluster>>) -> Sent {
        let compressed_once;
        let frame = if self.setup.compresses(frame) {
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
            if let Some(cluster) = cluster {
                cluster.push((!state.unlisted).then_some(&self.name), frame);
            }
        }
        drop(state);
        drop(wakes);
        if matches!(posted, Err(Error::Overloaded { .. })) {
            self.setup.drops().refused(None);
        }
        Sent::from_posted(&posted)
    }

    /// What it says of its frames.
    pub(crate) fn source(&self) -> RoomSource {
        RoomSource { scope: self.epoch, overflow: self.overflow }
    }

    /// Posts to the shards from number `first` on. It holds the mailbox of each while it goes on to the next, so that
    /// all are found to have space before the first is given anything.
    fn post_from(
        self: &Arc<Self>,
        first: usize,
        per_shard: &[u32],
        frame: &Message,
        offset: u64,
        wakes: &mut Vec<Wake>,
    ) -> Result<()> {
        let Some(shard) = (first..per_shard.len()).find(|&shard| per_shard[shard] > 0) else { return Ok(()) };
        let mut mailbox = self.mailboxes[shard].lock();
        mailbox.check(frame.len())?;
        self.post_from(shard + 1, per_shard, frame, offset, wakes)?;
        let wake = mailbox.post(Command::Broadcast { room: self.clone(), frame: frame.clone(), offset });
        if wake.is_needed() {
            wakes.push(wake);
        }
        Ok(())
    }

    /// Makes `who` a member. With a `snapshot`, that is the first frame that it gets: nothing which was pushed to the
    /// room before this comes after it, and everything pushed later does.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is; [`Error::TooManyRooms`] when it is in as many rooms as it may be in;
    /// [`Error::Overloaded`] when the mailbox of its shard is full.
    pub(crate) fn join(self: &Arc<Self>, who: Local, snapshot: Option<Message>) -> Result<()> {
        let mut state = self.state.lock();
        let mut mailbox = self.mailboxes[who.shard()].lock();
        let limit = self.setup.rooms_per_connection();
        let Some(rooms) = mailbox.rooms(who) else { return Err(Error::Closed) };
        if *rooms as usize >= limit && !state.members.contains(&who.pack()) {
            return Err(Error::TooManyRooms { limit });
        }
        match &snapshot {
            Some(frame) => mailbox.check(frame.len())?,
            None => mailbox.check_control()?,
        }
        let mut wakes = [const { None }; 2];
        if state.members.insert(who.pack()) {
            if let Some(rooms) = mailbox.rooms(who) {
                *rooms += 1;
            }
            state.per_shard[who.shard()] += 1;
            wakes[0] = Some(mailbox.post(Command::Join { who, room: self.clone() }));
            self.changed(&state);
        }
        if let Some(frame) = snapshot {
            let position = Some(Position { epoch: self.epoch, offset: state.offset });
            let of = Some(Snapshot { source: self.source(), position, is_first: true });
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
    pub(crate) fn push_state(&self, who: Local, frame: Message, is_first: bool) -> Result<()> {
        let mut mailbox = self.mailboxes[who.shard()].lock();
        if !mailbox.is_live(who) {
            return Err(Error::Closed);
        }
        mailbox.check(frame.len())?;
        let of = Some(Snapshot { source: self.source(), position: None, is_first });
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
        if let Some(rooms) = mailbox.rooms(who) {
            *rooms -= 1;
        }
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
    fn changed(&self, state: &RoomState) {
        if let (Some(cluster), false) = (self.setup.cluster(), state.unlisted) {
            cluster.room_changed(&self.name, state.members.len());
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

    /// The position of the message with this offset.
    pub(crate) fn position(&self, offset: u64) -> Position {
        Position { epoch: self.epoch, offset }
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

impl RoomState {
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
