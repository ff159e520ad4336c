//! The state that all handles of a room share: its members, and the lock that orders its messages.

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

/// The place of a room on a shard that has no members of it.
const NOWHERE: u32 = u32::MAX;

/// Removes rooms by name; implemented by the [`Registry`].
pub(crate) trait RoomNames: Send + Sync {
    /// Removes the entry of a room that has just been dropped, unless a new room already has its name.
    fn forget(&self, name: &str);
}

/// The shared state of a room. It lives as long as the room has members or handles.
pub(crate) struct RoomCore<W> {
    name: Arc<str>,
    /// Distinguishes this room from an earlier one of the same name.
    pub(super) epoch: u64,
    /// The policy when one of its messages does not fit an outbox; `None` for the endpoint's.
    overflow: Option<Overflow>,
    setup: Arc<Setup>,
    /// By shard: the index at which the shard keeps its members of the room. Only that shard reads and writes it.
    places: Box<[AtomicU32]>,
    /// Locked while a push is posted to all shards, so that every member receives pushes in the same order.
    pub(super) state: Mutex<RoomState>,
    /// By shard.
    mailboxes: Arc<[Arc<Mailbox<Command<W>>>]>,
    registry: Weak<dyn RoomNames>,
    /// Publishers that push to the room on their own, by name, such as a live counter. Their handles keep them alive.
    publishers: parking_lot::Mutex<Vec<(String, Weak<dyn Any + Send + Sync>)>>,
}

/// The state behind a room's lock.
#[derive(Default)]
pub(super) struct RoomState {
    /// The members, packed. Empty for the room of all connections, whose members only the shards know.
    pub(super) members: hashbrown::HashSet<u64>,
    /// Whether this is the room of all connections.
    unlisted: bool,
    /// By shard: the number of members. A shard without members does not receive pushes.
    pub(super) per_shard: Box<[u32]>,
    /// The number of messages pushed so far.
    pub(super) offset: u64,
}

impl<W> RoomCore<W> {
    /// Creates a room without members.
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

    /// Returns the room's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Turns it into the room of all connections. Shards add and remove these themselves, so no list is kept.
    pub(crate) fn unlisted(self) -> Self {
        self.state.lock().unlisted = true;
        self
    }

    /// Pushes a message to all members, on all nodes. If the mailbox of any shard here is full, the message goes
    /// to no shard and to no other node.
    pub(crate) fn push(self: &Arc<Self>, message: &Message) -> Sent {
        self.push_to(message, self.setup.cluster(), None)
    }

    /// Pushes a message to all members but one of this node, as [`push`](Self::push) does.
    pub(crate) fn push_except(self: &Arc<Self>, except: Option<Local>, message: &Message) -> Sent {
        self.push_to(message, self.setup.cluster(), except)
    }

    /// Pushes a message to the members on this node only, as [`push`](Self::push) does.
    pub(crate) fn push_here(self: &Arc<Self>, message: &Message) -> Sent {
        self.push_to(message, None, None)
    }

    /// Pushes a message to the members on this node, except one, and, with a `cluster`, to the other nodes.
    fn push_to(
        self: &Arc<Self>,
        message: &Message,
        cluster: Option<&Arc<dyn Cluster>>,
        except: Option<Local>,
    ) -> Sent {
        let compressed_once;
        let message = if self.setup.compresses(message) {
            compressed_once = message.clone().with_shared_deflated();
            &compressed_once
        } else {
            message
        };
        let mut wakes = Vec::new();
        let mut state = self.state.lock();
        let offset = state.offset + 1;
        let except = except.filter(|who| state.members.contains(&who.pack()));
        let posted = self.post_from(0, &state.per_shard, (message, except), offset, &mut wakes);
        if posted.is_ok() {
            state.offset = offset;
            if let Some(cluster) = cluster {
                cluster.push((!state.unlisted).then_some(&self.name), message);
            }
        }
        drop(state);
        drop(wakes);
        if matches!(posted, Err(Error::Overloaded { .. })) {
            self.setup.drops().refused(None);
        }
        Sent::from_posted(&posted)
    }

    /// Returns the description of the room that its messages carry.
    pub(crate) fn source(&self) -> RoomSource {
        RoomSource { scope: self.epoch, overflow: self.overflow }
    }

    /// Posts to the shards from number `first` on. Recursion keeps each mailbox locked until all of them are known to
    /// have space; only then is the first command posted.
    ///
    /// A member that is excepted leaves its shard's list for this one message. It stays a member of the room.
    fn post_from(
        self: &Arc<Self>,
        first: usize,
        per_shard: &[u32],
        (message, except): (&Message, Option<Local>),
        offset: u64,
        wakes: &mut Vec<Wake>,
    ) -> Result<()> {
        let Some(shard) = (first..per_shard.len()).find(|&shard| per_shard[shard] > 0) else { return Ok(()) };
        let mut mailbox = self.mailboxes[shard].lock();
        mailbox.check(message.len())?;
        self.post_from(shard + 1, per_shard, (message, except), offset, wakes)?;
        let mut post = |command| {
            let wake = mailbox.post(command);
            if wake.is_needed() {
                wakes.push(wake);
            }
        };
        let except = except.filter(|who| who.shard() == shard);
        if let Some(who) = except {
            post(Command::Leave { who, room: self.clone() });
        }
        post(Command::Broadcast { room: self.clone(), message: message.clone(), offset });
        if let Some(who) = except {
            post(Command::Join { who, room: self.clone() });
        }
        Ok(())
    }

    /// Adds a member. A `snapshot` is the first message of the room that it receives: pushes from before this call
    /// do not reach it, and all later ones follow the snapshot.
    ///
    /// # Errors
    /// [`Error::Closed`] if the connection is closed; [`Error::TooManyRooms`] if it is already in the maximum number of rooms;
    /// [`Error::Overloaded`] if the mailbox of its shard is full.
    pub(crate) fn join(self: &Arc<Self>, who: Local, snapshot: Option<Message>) -> Result<()> {
        let mut state = self.state.lock();
        let mut mailbox = self.mailboxes[who.shard()].lock();
        let limit = self.setup.rooms_per_connection();
        let Some(rooms) = mailbox.rooms(who) else { return Err(Error::Closed) };
        if *rooms as usize >= limit && !state.members.contains(&who.pack()) {
            return Err(Error::TooManyRooms { limit });
        }
        match &snapshot {
            Some(message) => mailbox.check(message.len())?,
            None => mailbox.check_control()?,
        }
        let mut wakes = [const { None }; 2];
        if state.members.insert(who.pack()) {
            if let Some(rooms) = mailbox.rooms(who) {
                *rooms += 1;
            }
            state.per_shard[who.shard()] += 1;
            wakes[0] = Some(mailbox.post(Command::Join { who, room: self.clone() }));
            self.report_members(&state);
        }
        if let Some(message) = snapshot {
            let position = Some(Position { epoch: self.epoch, offset: state.offset });
            let of = Some(Snapshot { source: self.source(), position, is_first: true });
            wakes[1] = Some(mailbox.post(Command::Push { to: who, message, of }));
        }
        drop(mailbox);
        drop(state);
        drop(wakes);
        Ok(())
    }

    /// Sends a part of the room's state to one connection. Set `is_first` for the first part.
    ///
    /// # Errors
    /// Same as [`RoomCore::join`].
    pub(crate) fn push_state(&self, who: Local, message: Message, is_first: bool) -> Result<()> {
        let mut mailbox = self.mailboxes[who.shard()].lock();
        if !mailbox.is_live(who) {
            return Err(Error::Closed);
        }
        mailbox.check(message.len())?;
        let of = Some(Snapshot { source: self.source(), position: None, is_first });
        let wake = mailbox.post(Command::Push { to: who, message, of });
        drop(mailbox);
        drop(wake);
        Ok(())
    }

    /// Removes a member. Messages pushed before still reach it. Returns whether it was a member.
    pub(crate) fn leave(self: &Arc<Self>, who: Local) -> bool {
        let mut state = self.state.lock();
        if !state.remove(who) {
            return false;
        }
        self.report_members(&state);
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

    /// Adds a connection that its shard has just opened, without posting a command to the shard.
    pub(crate) fn enter(&self, who: Local) {
        let mut state = self.state.lock();
        if state.unlisted || state.members.insert(who.pack()) {
            state.per_shard[who.shard()] += 1;
            self.report_members(&state);
        }
    }

    /// Removes a connection that its shard is closing, without posting a command to the shard.
    pub(crate) fn forget(&self, who: Local) {
        let mut state = self.state.lock();
        if state.remove(who) {
            self.report_members(&state);
        }
    }

    /// Reports the number of members to the other nodes.
    fn report_members(&self, state: &RoomState) {
        if let (Some(cluster), false) = (self.setup.cluster(), state.unlisted) {
            cluster.room_changed(&self.name, state.members.len());
        }
    }

    /// Returns the publisher of that name. Creates it if there is none, so that no value is published twice.
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

    /// Returns the number of members.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().per_shard.iter().map(|&members| members as usize).sum()
    }

    /// Returns the members, in no particular order.
    pub(crate) fn members(&self) -> Vec<Local> {
        self.state.lock().members.iter().map(|&packed| Local::unpack(packed)).collect()
    }

    /// Returns the position of the message with this offset.
    pub(crate) fn position(&self, offset: u64) -> Position {
        Position { epoch: self.epoch, offset }
    }

    /// Returns the index at which the shard keeps its members of the room. Called by that shard only.
    pub(crate) fn place(&self, shard: usize) -> Option<u32> {
        let place = self.places[shard].load(Ordering::Relaxed);
        (place != NOWHERE).then_some(place)
    }

    /// Sets the index at which the shard keeps its members of the room. Called by that shard only.
    pub(crate) fn set_place(&self, shard: usize, place: Option<u32>) {
        self.places[shard].store(place.unwrap_or(NOWHERE), Ordering::Relaxed);
    }
}

impl RoomState {
    /// Removes a member. Returns whether it was one.
    fn remove(&mut self, who: Local) -> bool {
        let was_member = self.unlisted || self.members.remove(&who.pack());
        if was_member {
            self.per_shard[who.shard()] -= 1;
            if self.members.is_empty() && !self.unlisted {
                self.members = hashbrown::HashSet::new(); // frees the memory of a room that was large
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
