//! The rooms of a node, by name.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::{Arc, Weak},
};

use super::{RoomCore, RoomNames, rules::Setup};
use crate::{
    engine::{command::Command, mailbox::Mailbox},
    limits::ROOM_STRIPES,
    sync::{Mutex, RandomState},
};

/// Rooms whose names have the same hash.
type RoomStripe<W> = Mutex<HashMap<Arc<str>, Weak<RoomCore<W>>>>;

/// The rooms of a node, by name. References are weak: only members and handles keep a room alive.
pub(crate) struct Registry<W> {
    /// Chosen by the hash of the name, so that lookups of different rooms rarely contend.
    stripes: Box<[RoomStripe<W>]>,
    /// Chooses the stripe, and derives each room's epoch.
    hasher: RandomState,
    /// By shard; passed to new rooms.
    pub(super) mailboxes: Arc<[Arc<Mailbox<Command<W>>>]>,
    setup: Arc<Setup>,
    /// The number of rooms created so far. Hashed with the hasher's random keys, it gives each room a different epoch.
    made: Mutex<u64>,
}

impl<W: Send + Sync + 'static> Registry<W> {
    /// Creates an empty registry.
    pub(crate) fn new(mailboxes: Arc<[Arc<Mailbox<Command<W>>>]>, setup: Arc<Setup>) -> Self {
        let stripes = (0..ROOM_STRIPES).map(|_| Mutex::new(HashMap::new())).collect();
        Self { stripes, hasher: RandomState::new(), mailboxes, setup, made: Mutex::new(0) }
    }

    /// Returns the room of that name. Creates it if there is none.
    pub(crate) fn room(self: &Arc<Self>, name: &str) -> Arc<RoomCore<W>> {
        let mut stripe = self.stripe(name).lock();
        if let Some(room) = stripe.get(name).and_then(Weak::upgrade) {
            return room;
        }
        let name: Arc<str> = name.into();
        let registry = Arc::downgrade(self);
        let room = Arc::new(RoomCore::new(
            name.clone(),
            self.next_epoch(),
            self.setup.clone(),
            self.mailboxes.clone(),
            registry,
        ));
        stripe.insert(name, Arc::downgrade(&room));
        room
    }

    /// Returns the room of that name, if it has members or handles.
    pub(crate) fn existing(&self, name: &str) -> Option<Arc<RoomCore<W>>> {
        self.stripe(name).lock().get(name).and_then(Weak::upgrade)
    }

    /// Returns the rooms that have members or handles, in no particular order.
    pub(crate) fn all(&self) -> Vec<Arc<RoomCore<W>>> {
        let mut rooms = Vec::new();
        for stripe in &self.stripes {
            // Dropping the last reference to a room locks its stripe, so keep all of them until this lock is released.
            rooms.extend(stripe.lock().values().filter_map(Weak::upgrade));
        }
        rooms
    }

    /// Returns the number of rooms that have members or handles.
    pub(crate) fn len(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.lock().len()).sum()
    }

    /// Returns a number that no earlier room has, random for each process.
    fn next_epoch(&self) -> u64 {
        let mut made = self.made.lock();
        *made += 1;
        self.hasher.hash_one(*made)
    }

    /// Returns the stripe of a name.
    pub(super) fn stripe(&self, name: &str) -> &RoomStripe<W> {
        let hash = self.hasher.hash_one(name) as usize;
        &self.stripes[hash % self.stripes.len()]
    }
}

impl<W: Send + Sync + 'static> RoomNames for Registry<W> {
    fn forget(&self, name: &str) {
        let mut stripe = self.stripe(name).lock();
        if stripe.get(name).is_some_and(|room| room.strong_count() == 0) {
            stripe.remove(name);
        }
    }
}
