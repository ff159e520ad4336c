//! All rooms of a node by name.

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

/// All rooms by name. It holds them weakly: members and handles keep a room, names don't.
pub(crate) struct Registry<W> {
    /// Striped by the hash of the name, so that rooms don't wait for each other.
    stripes: Box<[RoomStripe<W>]>,
    /// Chooses the stripe, and gives each room its epoch.
    hasher: RandomState,
    /// The mailboxes of all shards, for new rooms.
    pub(super) mailboxes: Arc<[Arc<Mailbox<Command<W>>>]>,
    /// What all rooms share.
    setup: Arc<Setup>,
    /// How many rooms were made; with the hasher's random keys it makes epochs that don't repeat.
    made: Mutex<u64>,
}

impl<W: Send + Sync + 'static> Registry<W> {
    /// No rooms.
    pub(crate) fn new(mailboxes: Arc<[Arc<Mailbox<Command<W>>>]>, setup: Arc<Setup>) -> Self {
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
