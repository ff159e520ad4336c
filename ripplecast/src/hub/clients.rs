//! Clients: identities, and the connections that each holds.

use std::{collections::HashMap, hash::BuildHasher, sync::Arc};

use crate::{
    Error, Frame, Result,
    id::{ConnectionId, Local, NodeId},
    limits::ROOM_STRIPES,
    outcome::Sent,
    sync::{Mutex, RandomState},
};

use super::{
    bridge::Group,
    connection::Connection,
    room::Setup,
    shards::{ShardHandle, Shards},
};

/// Which connections each client has on this node.
pub(crate) struct Clients {
    /// Striped by the hash of the id.
    stripes: Box<[Stripe]>,
    /// Chooses the stripe.
    hasher: RandomState,
    /// The way to other nodes, which are told who is here.
    setup: Arc<Setup>,
}

/// Clients whose ids have the same hash.
type Stripe = Mutex<HashMap<Arc<str>, Vec<Local>>>;

impl Clients {
    /// No clients.
    pub(crate) fn new(setup: Arc<Setup>) -> Self {
        Self {
            stripes: (0..ROOM_STRIPES).map(|_| Mutex::new(HashMap::new())).collect(),
            hasher: RandomState::new(),
            setup,
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
        let Some(connections) = stripe.get_mut(client) else { return };
        connections.retain(|&connection| connection != who);
        let left = connections.len();
        if left == 0 {
            stripe.remove(client);
        }
        self.changed(&client.into(), left);
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
            let count = connections.len();
            self.changed(client, count);
        }
    }

    /// Tells the other nodes how many connections a client has here. Called under the lock of its stripe, so in order.
    fn changed(&self, client: &Arc<str>, connections: usize) {
        if let Some(bridge) = self.setup.bridge() {
            bridge.client_changed(client, connections);
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

    /// Sends a frame to every connection of the client, on whatever node it is. How many took it; 0 when the client is not
    /// connected. Of other nodes it is the number that they last told, if they are there.
    ///
    /// # Errors
    /// None with the memory backend. With a shared one, [`Error::Backend`] when it is away: then the connections of this
    /// node have got the frame, and no others.
    pub async fn push(&self, frame: impl Into<Frame>) -> Result<usize> {
        let mut frame = frame.into();
        if self.shards.setup.compresses(&frame) {
            frame = frame.with_shared_deflated();
        }
        let connections = self.local_connections();
        let here = connections.filter(|connection| connection.push(frame.clone()) == Sent::Queued).count();
        match self.shards.setup.bridge() {
            Some(bridge) => Ok(here + bridge.push_to_client(&self.id, frame).await?),
            None => Ok(here),
        }
    }

    /// The ids of its connections, on all nodes, in order.
    ///
    /// # Errors
    /// None with the memory backend; [`Error::Backend`] when a shared one, or another node, does not answer.
    pub async fn connections(&self) -> Result<Vec<ConnectionId>> {
        self.shards.all_connections(Group::Client(&self.id)).await
    }

    /// The nodes that have connections of the client.
    ///
    /// # Errors
    /// As [`Client::connections`].
    pub async fn nodes(&self) -> Result<Vec<NodeId>> {
        let mut nodes = match self.shards.setup.bridge() {
            Some(bridge) => bridge.nodes(Group::Client(&self.id)).await?,
            None => Vec::new(),
        };
        if self.local_connections().next().is_some() {
            nodes.push(NodeId(self.shards.node));
        }
        nodes.sort_unstable();
        Ok(nodes)
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
