//! A client: an identity with all of its connections.

use std::sync::Arc;

use super::connection::Connection;
use crate::{
    Frame, Result,
    engine::{Group, Shards},
    id::{ConnectionId, NodeId},
    outcome::Sent,
};

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
    /// None with the memory backend. With a shared one, [`Error::Backend`](crate::Error::Backend) when it is away: then the connections of this
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
    /// None with the memory backend; [`Error::Backend`](crate::Error::Backend) when a shared one, or another node, does not answer.
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
        let connection = |local| Connection::new(self.shards.shard_of(local).clone(), local);
        self.shards.clients.connections(&self.id).into_iter().map(connection)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("id", &self.id).finish_non_exhaustive()
    }
}
