//! The connections of each user on this node.

use std::{collections::HashMap, hash::BuildHasher, sync::Arc};

use super::{
    mailbox::{Mailbox, Posted},
    room::Setup,
};
use crate::{
    Error, Result,
    id::Local,
    limits::ROOM_STRIPES,
    sync::{Mutex, RandomState},
};

/// Maps each user to its connections on this node.
pub(crate) struct Users {
    /// Chosen by the hash of the id.
    stripes: Box<[UserStripe]>,
    hasher: RandomState,
    /// Provides the cluster, which is notified of changes.
    setup: Arc<Setup>,
}

/// Users whose ids have the same hash.
type UserStripe = Mutex<HashMap<Arc<str>, Vec<Local>>>;

impl Users {
    /// Creates an empty map.
    pub(crate) fn new(setup: Arc<Setup>) -> Self {
        Self {
            stripes: (0..ROOM_STRIPES).map(|_| Mutex::new(HashMap::new())).collect(),
            hasher: RandomState::new(),
            setup,
        }
    }

    /// Assigns a connection to a user, and removes it from any other.
    pub(crate) fn identify<C: Posted>(&self, mailbox: &Mailbox<C>, who: Local, user: &str) -> Result<()> {
        let user: Arc<str> = user.into();
        // The mailbox stays locked throughout, so that concurrent calls cannot interleave.
        let mut mailbox = mailbox.lock();
        if !mailbox.is_live(who) {
            return Err(Error::Closed);
        }
        let former = mailbox.set_user(who, user.clone());
        if former.as_ref() != Some(&user) {
            self.add(&user, who);
            if let Some(former) = former {
                self.remove(&former, who);
            }
        }
        Ok(())
    }

    /// Removes a connection from a user.
    pub(crate) fn remove(&self, user: &str, who: Local) {
        let mut stripe = self.stripe(user).lock();
        let Some(connections) = stripe.get_mut(user) else { return };
        connections.retain(|&connection| connection != who);
        let left = connections.len();
        if left == 0 {
            stripe.remove(user);
        }
        self.report_connections(&user.into(), left);
    }

    /// Returns the connections of a user.
    pub(crate) fn connections(&self, user: &str) -> Vec<Local> {
        self.stripe(user).lock().get(user).cloned().unwrap_or_default()
    }

    /// Adds a connection to a user, once.
    fn add(&self, user: &Arc<str>, who: Local) {
        let mut stripe = self.stripe(user).lock();
        let connections = stripe.entry(user.clone()).or_default();
        if !connections.contains(&who) {
            connections.push(who);
            let count = connections.len();
            self.report_connections(user, count);
        }
    }

    /// Reports the number of a user's connections here to the other nodes. Called under the lock of the user's stripe, so
    /// that reports are in order.
    fn report_connections(&self, user: &Arc<str>, connections: usize) {
        if let Some(cluster) = self.setup.cluster() {
            cluster.user_changed(user, connections);
        }
    }

    /// Returns the stripe of an id.
    fn stripe(&self, user: &str) -> &UserStripe {
        &self.stripes[self.hasher.hash_one(user) as usize % self.stripes.len()]
    }
}
