//! Clients: identities, and the connections that each holds.

use std::{collections::HashMap, hash::BuildHasher, sync::Arc};

use crate::{
    Error, Frame, Result,
    limits::ROOM_STRIPES,
    sync::{Mutex, RandomState},
};

use super::{
    connection::{Connection, Local, Sent},
    shards::{ShardHandle, Shards},
};

/// Which connections each client has on this node.
pub(crate) struct Clients {
    /// Striped by the hash of the id.
    stripes: Box<[Stripe]>,
    /// Chooses the stripe.
    hasher: RandomState,
}

/// Clients whose ids have the same hash.
type Stripe = Mutex<HashMap<Arc<str>, Vec<Local>>>;

impl Clients {
    /// No clients.
    pub(crate) fn new() -> Self {
        Self {
            stripes: (0..ROOM_STRIPES).map(|_| Mutex::new(HashMap::new())).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Notes that a connection is of this client, and no longer of another.
    pub(crate) fn identify(&self, shard: &ShardHandle, who: Local, client: &str) -> Result<()> {
        let client: Arc<str> = client.into();
        // All of it under the mailbox's lock, so that two calls can't undo each other's half.
        let mut mailbox = shard.mailbox.lock();
        if !mailbox.state.is_live(who) {
            return Err(Error::Closed);
        }
        let former = mailbox.state.details.set_client(who, client.clone());
        if former.as_ref() != Some(&client) {
            self.add(&client, who);
            if let Some(former) = former {
                self.remove(&former, who);
            }
        }
        Ok(())
    }

    /// The connection is of this client no more.
    pub(crate) fn remove(&self, client: &str, who: Local) {
        let mut stripe = self.stripe(client).lock();
        if let Some(connections) = stripe.get_mut(client) {
            connections.retain(|&connection| connection != who);
            if connections.is_empty() {
                stripe.remove(client);
            }
        }
    }

    /// The connections of a client.
    pub(crate) fn connections(&self, client: &str) -> Vec<Local> {
        self.stripe(client).lock().get(client).cloned().unwrap_or_default()
    }

    /// Adds a connection to a client, once.
    fn add(&self, client: &Arc<str>, who: Local) {
        let mut stripe = self.stripe(client).lock();
        let connections = stripe.entry(client.clone()).or_default();
        if !connections.contains(&who) {
            connections.push(who);
        }
    }

    /// The stripe of an id.
    fn stripe(&self, client: &str) -> &Stripe {
        &self.stripes[self.hasher.hash_one(client) as usize % self.stripes.len()]
    }
}

/// A client: an identity, such as a user, with all of its connections.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
/// let hub = ripplecast::Hub::builder().build()?;
/// let reached = hub.client("user:7").push("your order has left").await?;
/// assert_eq!(reached, 0); // not here at the moment
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    /// Its id.
    pub(crate) id: Arc<str>,
    /// The node's connections.
    pub(crate) shards: Arc<Shards>,
}

impl Client {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sends a frame to every connection of the client. How many took it; 0 when the client is not connected.
    ///
    /// # Errors
    /// None with the memory backend; a shared backend may be unreachable.
    pub async fn push(&self, frame: impl Into<Frame>) -> Result<usize> {
        let frame = frame.into();
        let connections = self.local_connections();
        Ok(connections.filter(|connection| connection.push(frame.clone()) == Sent::Queued).count())
    }

    /// The ids of its connections.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub async fn connections(&self) -> Result<Vec<crate::ConnectionId>> {
        Ok(self.local_connections().map(|connection| connection.id()).collect())
    }

    /// Its connections on this node.
    fn local_connections(&self) -> impl Iterator<Item = Connection> {
        self.shards.clients.connections(&self.id).into_iter().map(|local| self.shards.connection(local))
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("id", &self.id).finish_non_exhaustive()
    }
}
